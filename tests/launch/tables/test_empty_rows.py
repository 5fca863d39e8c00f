"""Forecasts of tables with rows, and with whole series, that have no value."""

import json

import numpy as np
import pytest
from pyarrow import parquet

from driftwork.errors import DriftworkError
from launch.tables import answering, forecast
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import record, rows_path
from pipeline.readers.tables.sheets import Sheets, SheetsConfig
from pipeline.sequence import Item
from tests.launch.tables.own import run_on
from tests.pipeline.tables.making import write

CHANNELS = ("heat", "pulse")
BLANK = dict.fromkeys(CHANNELS)

pytestmark = pytest.mark.usefixtures("line")


@pytest.fixture
def asked(monkeypatch):
    """Collect the sequences that the model gets, by series."""
    found, own = {}, answering.asked

    def collecting(ready, questions):
        for question, *others in own(ready, questions):
            found[question.sequence.group] = question
            yield question, *others

    monkeypatch.setattr(answering, "asked", collecting)
    return found


def continued(run, source, *settings):
    out = source.with_suffix(".ahead.parquet")
    assert forecast.main([str(run), f"source={source}", f"out={out}", *settings]) == 0
    return parquet.read_table(out).to_pylist()


def ends(rows):
    return {row["series"]: max(own["time"] for own in rows if own["series"] == row["series"]) for row in rows}


def with_blanks(rows, after):
    """Return a table with rows without values before, between and `after` (in hours) the times of each series."""
    table = [*rows]
    for series in ends(rows):
        first, second, *_, last = sorted(row["time"] for row in rows if row["series"] == series)
        times = [first - 3.5, (first + second) / 2, *(last + span for span in after)]
        table += [{**rows[0], "series": series, "time": time, **BLANK} for time in times]
    return table


def as_long(rows):
    return [
        {"series": row["series"], "time": row["time"], "channel": name, "value": row[name]}
        for row in rows
        for name in CHANNELS
    ]


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_new_rows_follow_rows_without_values(tmp_path, run, rows, layout):
    table = with_blanks(rows, [0.5, 2.0])
    source = write(tmp_path / "new.csv", as_long(table) if layout == "long" else table)
    back = continued(run, source, "until=+2", "every=1", f"dataset.layout={layout}")
    each = len(CHANNELS) if layout == "long" else 1
    expected = [(series, last + 2 + k) for series, last in sorted(ends(rows).items()) for k in (1, 2)]
    assert [(row["series"], row["time"]) for row in back] == [pair for pair in expected for _ in range(each)]


def test_end_of_rows_without_values_can_be_until(tmp_path, run, rows):
    latest = max(ends(rows).values())
    source = write(tmp_path / "new.csv", with_blanks(rows, [latest]))
    with pytest.raises(DriftworkError, match=f"^until={latest}: is not after the end of any series"):
        continued(run, source, f"until={latest}", "every=1")


@pytest.mark.parametrize("settings", [[], ["dataset.window=20"]])
def test_model_gets_only_times_with_a_value(tmp_path, run, rows, asked, settings):
    """All but the new times is equal, bit for bit, to what the model gets without the empty rows."""
    plain = continued(run, write(tmp_path / "plain.csv", rows), "until=+2", "every=1", *settings)
    expected = dict(asked)
    inner = continued(run, write(tmp_path / "inner.csv", with_blanks(rows, [])), "until=+2", "every=1", *settings)
    assert inner == plain
    for series, question in asked.items():
        assert_same(question.sequence, expected[series].sequence)
    continued(run, write(tmp_path / "after.csv", with_blanks(rows, [4.0])), "until=+2", "every=1", *settings)
    for series, question in asked.items():
        past, own = expected[series].sequence, question.sequence
        assert own.mask[:-2].any(axis=1).all()
        assert_same(
            own._replace(times=own.times[:-2], values=own.values[:-2], mask=own.mask[:-2]),
            past._replace(times=past.times[:-2], values=past.values[:-2], mask=past.mask[:-2]),
        )
        assert np.allclose(own.times[-2:], past.times[-2:] + 4 * 3600, rtol=0, atol=1e-6)


def assert_same(one, other):
    assert (one.key, one.group, one.about) == (other.key, other.group, other.about)
    for name in ("times", "values", "mask"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_static_columns_are_those_of_the_last_value(tmp_path, rows, line):
    """A row without values need not repeat them."""
    aged = [{**row, "age": 50.0} for row in rows]
    settings = ["dataset.layout=wide", "dataset.time_unit=h", "dataset.static_numbers=[age]"]
    run = run_on(tmp_path, write(tmp_path / "ward.csv", aged), *settings)
    more = [{**row, "age": None} for row in with_blanks(rows, [1.0]) if row not in rows]
    back = continued(run, write(tmp_path / "new.parquet", [*aged, *more]), "until=+1", "every=1")
    assert [row["age"] for row in back] == [50.0] * len(ends(rows))


def test_series_without_values_is_named(tmp_path, run, rows, capsys):
    blank = [{"series": f"blank {n}", "time": float(hours)} | BLANK for n in range(9) for hours in (1, 2)]
    back = continued(run, write(tmp_path / "new.csv", [*rows, *blank]), "until=+1", "every=1")
    assert [row["series"] for row in back] == sorted(ends(rows))
    path = tmp_path / "new.ahead.parquet.quarantine.jsonl"
    bad = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["file"] for entry in bad] == [f"blank {n}" for n in range(9)]
    assert {entry["reason"] for entry in bad} == {"has no value to forecast from"}
    assert "9 files or series are left out, the first blank 0: has no value to forecast from" in capsys.readouterr().out


def test_table_without_values_is_reported(tmp_path, run, rows):
    source = write(tmp_path / "new.csv", [{**row, **BLANK} for row in rows])
    with pytest.raises(DriftworkError, match="no series has a value to forecast from; give a "):
        continued(run, source, "until=+2", "every=1")


def test_refused_series_is_not_taken_for_an_empty_one(tmp_path, run, rows):
    """The share of bad series is of those that have values."""
    twice = [{**rows[0], "series": "twice"}] * 2
    blank = [{"series": f"blank {n}", "time": 1.0} | BLANK for n in range(12)]
    with pytest.raises(DriftworkError, match="twice: channel 'heat' has two values at one time"):
        continued(run, write(tmp_path / "new.csv", [*twice, *blank]), "until=+2", "every=1")


def test_scratch_of_a_forecast_has_no_holes(tmp_path, rows):
    """Beside the values it has one record for each row without any; no row of this table has two values."""
    table = [{**row, "pulse": None} for row in rows] + [{**rows[0], "time": 1e3 + n, **BLANK} for n in range(3)]
    write(tmp_path / "new.csv", table)
    config, counts = TableConfig(layout="wide", time_unit="h"), {}
    for missing in ("none", "rows", "all"):
        scratch = tmp_path / missing
        scratch.mkdir()
        Sheets(SheetsConfig(table=config, scratch=scratch, missing=missing)).read(tmp_path, Item("new.csv", "0", ()))
        counts[missing] = np.fromfile(rows_path(scratch, 0), record("h")).size
    values = sum(row["heat"] is not None for row in table)
    assert 0 < values < len(table)
    assert counts == {"none": values, "rows": len(table), "all": 2 * len(table)}
