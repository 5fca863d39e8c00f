"""Whole tables to a served model, against `driftwork impute` and `driftwork forecast`."""

import json
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from mlflow import pyfunc
from mlflow.exceptions import MlflowException

import driftwork
from launch.runs import run_folder
from launch.serving import export, served_table
from pipeline.shards.manifest import read_manifest
from tests.launch.tables.own import untrained
from tests.pipeline.tables.making import long, ward, write

START = datetime(2024, 3, 30, 22, 0, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("in_process")


def exported(place, rows, *settings):
    """Return a run with initial weights, and its model as the server loads it."""
    run = untrained(place, write(place / "ward.parquet", rows), *settings)
    config = run_folder.config_of(run)
    folder = export.write(run, config, read_manifest(config.data))
    return driftwork.load(run), folder


@pytest.fixture(scope="module")
def rows():
    """Provide rows of patients with an age and a ward, at times in hours."""
    return [{**row, "age": 50 + int(row["series"][-1]), "note": f"n{n}"} for n, row in enumerate(ward(9))]


@pytest.fixture(scope="module")
def wide(tmp_path_factory, rows, in_process):
    settings = ["dataset.layout=wide", "dataset.channels=[pulse,heat]", "dataset.time_unit=h"]
    return exported(tmp_path_factory.mktemp("wide"), rows, *settings, "dataset.static_numbers=[age]")


@pytest.fixture
def sent(monkeypatch):
    """Return a function that loads a model by MLflow and sends it a table as a server receives it: as JSON."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def answer(folder, frame, **params):
        records = json.loads(frame.to_json(orient="records", date_format="iso"))
        return pd.DataFrame(pyfunc.load_model(str(folder)).predict(pd.DataFrame(records), params=params))

    return answer


def test_holes_of_a_table_are_filled_as_by_the_command(wide, rows, sent):
    """Static columns are used, and columns that the model lacks are returned."""
    run, folder = wide
    frame = pd.DataFrame(rows)
    found = sent(folder, frame, quantiles=[0.25])
    expected = run.impute(frame, quantiles=(0.25,))
    assert found["note"].tolist() == [row["note"] for row in rows]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=True)
    assert not found["pulse"].isna().any()


def test_table_is_continued_as_by_the_command(wide, rows, sent):
    run, folder = wide
    frame = pd.DataFrame(rows)
    found = sent(folder, frame, until="60", every="90min")
    expected = run.forecast(frame, until=60, every="90min")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=True)
    later = pd.DataFrame([{**rows[0], "time": 70.0, "pulse": None, "heat": None}])
    found = sent(folder, pd.concat([frame, later]), until="+1", every="1")
    assert found.set_index("series")["time"][rows[0]["series"]] == 71
    one = rows[0]["series"]
    alone = sent(folder, frame[frame["series"] == one], until="+3", every="1")
    assert set(alone["series"]) == {one}


def test_long_table_has_its_times_as_text(tmp_path, rows, sent):
    dated = [{**row, "time": START + timedelta(hours=row["time"])} for row in long(rows)]
    run, folder = exported(tmp_path, dated)
    found = sent(folder, pd.DataFrame(dated))
    expected = run.impute(pd.DataFrame(dated))
    assert [datetime.fromisoformat(time) for time in found["time"]] == expected["time"].tolist()
    columns = ["series", "channel", "value", "deviation"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False, check_exact=True)


BAD = {
    "column 'pulse' is missing; send a table with series, time, age, p": lambda f: f.drop(columns="pulse"),
    "the table has no rows": lambda f: f[:0],
    "row 1: column 'pulse' is not a number: '7O'": lambda f: f.assign(pulse="7O"),
    "the table cannot be read: .*; give each column one type": lambda f: f.assign(pulse=["7O", *[1.0] * (len(f) - 1)]),
    "series 'p 0': channel '.*' has two values at one time": lambda f: pd.concat([f, f[:9]]),
    "series 'p 0' spans 3.5997e.08 s; divide it": lambda f: f.assign(time=f["time"] + 1e5 * (f.index == 0)),
    "no table is given": lambda f: f.to_dict("list"),
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_bad_table_is_reported_in_one_line(wide, rows, reason):
    check_refused(served_table._load_pyfunc(wide[1] / "data/driftwork"), BAD[reason](pd.DataFrame(rows)), {}, reason)


def test_series_without_values_is_refused_in_a_forecast(wide, rows):
    model = served_table._load_pyfunc(wide[1] / "data/driftwork")
    blank = {**rows[0], "series": "blank", "pulse": None, "heat": None}
    params = {"until": "+1", "every": "1"}
    check_refused(model, pd.DataFrame([*rows, blank]), params, "^series 'blank': has no value to forecast from")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"until": "60"}, "until, every: a forecast needs both"),
        ({"until": "60", "every": "0"}, "every=0: must be above 0"),
        ({"until": "0", "every": "1"}, "until=0: is not after the end of any series"),
        ({"until": "+1e9", "every": "1"}, "every: makes more than 20000 new times"),
        ({"until": "+15000", "every": "1"}, "series 'p .' spans .* s; divide it into series of at most"),
        ({"task": "prediction"}, "task=prediction: has no effect on a table"),
        ({"quantiles": [1.5]}, r"quantiles=\[1.5\]: must be between 0 and 1"),
        ({"quantiles": [0.1, 0.1]}, r"quantiles=\[0.1, 0.1\]: two levels have the column quantile_0.1; remove one"),
        ({"samples": 0}, "samples=0: must be from 1 to 1000"),
    ],
)
def test_bad_parameter_is_reported_in_one_line(wide, rows, params, reason):
    check_refused(served_table._load_pyfunc(wide[1] / "data/driftwork"), pd.DataFrame(rows), params, reason)


def check_refused(model, frame, params, reason):
    with pytest.raises(MlflowException, match=reason) as caught:
        model.predict(frame, params)
    assert "\n" not in caught.value.message
    assert caught.value.get_http_status_code() == 400


def test_single_sequences_are_still_answered(wide):
    model = served_table._load_pyfunc(wide[1] / "data/driftwork")
    row = {"times": [0, 3600], "values": [[70, None], [None, 37]], "ask": [0, 60]}
    (found,) = model.predict(pd.DataFrame([row]))
    assert found["values"][0][0] == 70
    packages = {line.partition("==")[0] for line in (wide[1] / "requirements.txt").read_text().split()}
    assert {"pandas", "pyarrow"} <= packages
