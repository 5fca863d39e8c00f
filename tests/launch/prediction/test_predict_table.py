"""Predictions about a table have the user's names, units and times."""

import csv
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from launch import predict
from tests.launch.tables.own import untrained
from tests.pipeline.tables.making import ward, write

START = datetime(2024, 3, 30, 22, 0, 0, 250, tzinfo=UTC)
UNITS = {"heat": "C", "pulse": "bpm"}

pytestmark = pytest.mark.usefixtures("in_process")


def trained(place, rows, *settings):
    named = ["dataset.layout=wide", "dataset.channels=[heat,pulse]", "dataset.units=[C,bpm]"]
    return untrained(place, write(place / "ward.parquet", rows), *named, *settings)


def predicted(run, out):
    assert predict.main([str(run), f"out={out}"]) == 0
    if out.suffix == ".parquet":
        return parquet.read_table(out).to_pylist()
    with out.open(newline="") as handle:
        return list(csv.DictReader(handle))


def entries(rows, series):
    """Return the values of the user's table by series, time and channel."""
    return {
        (row["series"], row["time"], name): np.float32(row[name])
        for row in rows
        for name in UNITS
        if row["series"] in series and row[name] is not None
    }


def check(rows, back, same):
    """Check that every entry of the table is among the predictions, with its value; `same` compares two times."""
    table = entries(rows, {row["series"] for row in back})
    found = [row for row in back if row["truth"] not in (None, "")]
    assert len(found) == len(table) > 0
    assert {row["channel"]: row["unit"] for row in back} == UNITS
    keys = [(row["series"], row["time"], row["channel"]) for row in found]
    for (series, time, channel), row in zip(keys, found, strict=True):
        (own,) = [key for key in table if (key[0], key[2]) == (series, channel) and same(key[1], time)]
        assert np.float32(row["truth"]) == table[own]


def test_numbers_are_in_the_unit_of_the_table(tmp_path):
    """Windows, which begin later than their series, are in that unit too. A quarter of an hour is exact in seconds and
    in hours.
    """
    rows = ward(7)
    run = trained(tmp_path, rows, "dataset.time_unit=h", "dataset.window=20")
    for form in ("a.parquet", "a.csv"):
        check(rows, predicted(run, tmp_path / form), lambda one, other: one == float(other))
    arrays = np.load(tmp_path / "a.npz") if predict.main([str(run), f"out={tmp_path / 'a.npz'}"]) == 0 else {}
    assert (arrays["channels"].tolist(), arrays["units"].tolist()) == (["heat", "pulse"], ["C", "bpm"])
    series = arrays["series"][arrays["sequence"]]
    back = predicted(run, tmp_path / "a.parquet")
    assert [(row["series"], row["time"]) for row in back[::2]] == list(zip(series, arrays["time"], strict=True))


def test_instants_keep_their_zone(tmp_path):
    rows = [{**row, "time": START + timedelta(hours=row["time"])} for row in ward(8)]
    run = trained(tmp_path, rows)
    check(rows, predicted(run, tmp_path / "a.parquet"), lambda one, other: one == other.to_pydatetime())
    assert parquet.read_schema(tmp_path / "a.parquet").field("time").type == pa.timestamp("ns", "UTC")
    check(rows, predicted(run, tmp_path / "a.csv"), lambda one, other: one == datetime.fromisoformat(other))
