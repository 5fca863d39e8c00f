"""`driftwork impute` gives the user's table back with its holes filled, in its own layout, units, names and times."""

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from driftwork.errors import DriftworkError
from launch.tables import impute
from tests.launch.tables.own import DEVIATION, HIGH, LOW, mean, run_on
from tests.pipeline.tables.making import long, ward, write

CHANNELS = ("heat", "pulse")
"""Names of the channels, sorted as `prepare` reads them."""

pytestmark = pytest.mark.usefixtures("line")


def filled(run, source, out, *settings):
    assert impute.main([str(run), f"source={source}", f"out={out}", *settings]) == 0
    assert sorted(path.name for path in out.parent.iterdir() if out.stem in path.name and path != source) == sorted(
        [out.name, f"{out.stem}.png"]
    )
    if out.suffix == ".csv":
        with out.open(newline="") as handle:
            return list(csv.DictReader(handle))
    return parquet.read_table(out).to_pylist()


def starts(rows):
    """Return the first time of each series."""
    first = {}
    for row in rows:
        first[row["series"]] = min(first.get(row["series"], np.inf), row["time"])
    return first


def single(number):
    """Return the double of the shortest decimals of a number in single precision."""
    return float(str(np.float32(number)))


@pytest.fixture(scope="module")
def rows():
    """Provide a wide table with shuffled rows. One row has no observation, and one series no value at all."""
    made = ward(1)
    made[3] |= {"pulse": None, "heat": None}
    made += [{"series": "blank", "time": hours, "pulse": None, "heat": None} for hours in (1.0, 2.5)]
    return [made[n] for n in np.random.default_rng(0).permutation(len(made))]


def check_wide(given, back, first):
    assert len(back) == len(given)
    for row, own in zip(back, given, strict=True):
        assert row["series"] == own["series"]
        assert float(row["time"]) == own["time"]
        for channel, name in enumerate(CHANNELS):
            others = [row[f"{name}_{what}"] for what in ("deviation", "quantile_0.05", "quantile_0.95")]
            if own[name] is not None:
                assert float(row[name]) == own[name]
                assert [other or None for other in others] == [None] * 3
                continue
            expected = mean(channel, own["time"] - first[own["series"]])
            numbers = [float(row[name]), *map(float, others)]
            bounds = [expected, DEVIATION, expected + LOW * DEVIATION, expected + HIGH * DEVIATION]
            assert np.allclose(numbers, bounds, rtol=4e-7, atol=0)  # float32


@pytest.mark.parametrize("form", ["filled.csv", "filled.parquet"])
@pytest.mark.parametrize("source", ["new.csv", "new.csv.gz", "new.parquet"])
def test_every_hole_is_filled_and_nothing_else(tmp_path, run, rows, source, form):
    """Rows keep their order; the text of observed cells of a CSV file is kept as it is."""
    back = filled(run, write(tmp_path / source, rows), tmp_path / "out" / form)
    check_wide(rows, back, starts(rows))
    if form.endswith("csv") and source != "new.parquet":
        text = [[str(row[name]) for name in ("series", "time", *CHANNELS) if row[name] is not None] for row in rows]
        assert text == [
            [row[name] for name in ("series", "time", *CHANNELS) if own[name] is not None]
            for row, own in zip(back, rows, strict=True)
        ]


def test_long_table_gets_a_row_for_each_hole(tmp_path, run, rows):
    """An entry without a row gets one after the last row of its time, and a row without a value is filled."""
    given = long(rows)
    given[0] = {**given[0], "value": None}
    source = write(tmp_path / "new.csv", [{**row, "note": f"n{number}"} for number, row in enumerate(given)])
    back = filled(run, source, tmp_path / "filled.parquet", "dataset.layout=long")
    assert list(back[0]) == [*given[0], "note", "deviation", "quantile_0.05", "quantile_0.95"]
    own = [row for row in back if row["note"] is not None]
    assert [row["note"] for row in own] == [f"n{number}" for number in range(len(given))]
    assert [row["value"] for row in own[1:]] == [row["value"] for row in given[1:]]
    times = {(row["series"], row["time"]) for row in given}
    assert sorted((row["series"], row["time"], row["channel"]) for row in back) == sorted(
        (*time, channel) for time in times for channel in CHANNELS
    )
    first = starts(given)
    for place, row in enumerate(back):
        if row["deviation"] is not None:
            expected = mean(CHANNELS.index(row["channel"]), row["time"] - first[row["series"]])
            assert row["value"] == single(row["value"])
            assert np.isclose(row["value"], expected, rtol=4e-7, atol=0)
            if row["note"] is None:
                before = back[place - 1]
                assert (before["series"], before["time"]) == (row["series"], row["time"])


def test_columns_types_and_other_columns_are_kept(tmp_path, run, rows):
    """Dictionaries become text and whole numbers doubles, since a mean is seldom whole."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    table = pa.table(
        {
            "unit": pa.array(["ICU", None] * 99, pa.string())[: len(rows)],
            "series": pa.array(columns["series"]).dictionary_encode(),
            "time": pa.array(columns["time"], pa.float32()),
            "heat": pa.array(columns["heat"], pa.float32()),
            "pulse": pa.array([None if x is None else int(x) for x in columns["pulse"]], pa.int16()),
        }
    )
    parquet.write_table(table, tmp_path / "new.parquet", row_group_size=5)
    filled(run, tmp_path / "new.parquet", tmp_path / "filled.parquet")
    back = parquet.read_table(tmp_path / "filled.parquet")
    added = [f"{name}_{what}" for name in CHANNELS for what in ("deviation", "quantile_0.05", "quantile_0.95")]
    assert back.column_names == [*table.column_names, *added]
    kinds = [back.schema.field(name).type for name in table.column_names]
    assert kinds == [pa.string(), pa.string(), pa.float32(), pa.float32(), pa.float64()]
    assert back["unit"].equals(table["unit"].cast(pa.string()))
    assert back["time"].combine_chunks().equals(table["time"].combine_chunks())
    heat = table["heat"].combine_chunks()
    assert back["heat"].combine_chunks().filter(heat.is_valid()).equals(heat.drop_null())


def test_entry_observed_in_another_row_is_given(tmp_path, run):
    """If another row of the same time has the value, the entry counts as observed and gets no deviation."""
    rows = [
        {"series": "a", "time": 1.0, "pulse": 70.5, "heat": None},
        {"series": "a", "time": 1.0, "pulse": None, "heat": 36.5},
    ]
    back = filled(run, write(tmp_path / "new.csv", rows), tmp_path / "filled.parquet")
    assert [(row["pulse"], row["heat"], row["pulse_deviation"]) for row in back] == [(70.5, 36.5, None)] * 2


def test_windows_divide_a_long_series(tmp_path, rows):
    """Each entry is imputed once, in one window, whose time starts at its first frame."""
    source = write(tmp_path / "ward.csv", rows)
    windowed = run_on(
        tmp_path / "w", source, "dataset.layout=wide", "dataset.time_unit=h", "dataset.window=10", "dataset.stride=5"
    )
    back = filled(windowed, source, tmp_path / "filled.csv")
    first = starts(rows)
    begins = {}
    for row in rows:
        place = (row["series"], (row["time"] - first[row["series"]]) // 10)
        begins[place] = min(begins.get(place, np.inf), row["time"])
    for row, own in zip(back, rows, strict=True):
        begin = begins[own["series"], (own["time"] - first[own["series"]]) // 10]
        for channel, name in enumerate(CHANNELS):
            if own[name] is None:
                assert np.isclose(float(row[name]), mean(channel, own["time"] - begin), rtol=4e-7, atol=0)


def test_bad_series_is_named_and_returned(tmp_path, run, rows, capsys):
    twice = [{"series": "twice", "time": 1.0, "pulse": pulse, "heat": None} for pulse in (70.0, 71.0)]
    source, out = write(tmp_path / "new.csv", [*rows, *twice]), tmp_path / "filled.csv"
    assert impute.main([str(run), f"source={source}", f"out={out}", "max_unreadable=0.2"]) == 0
    back = list(csv.DictReader(out.open(newline="")))
    assert [(row["pulse"], row["heat"]) for row in back[-2:]] == [("70.0", ""), ("71.0", "")]
    (bad,) = (json.loads(entry) for entry in (tmp_path / "filled.csv.quarantine.jsonl").read_text().splitlines())
    assert bad["file"] == "twice"
    assert "has two values at one time" in bad["reason"]
    assert "1 files or series are left out, the first twice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({"pulse": "fast"}, [], "^new.csv: row 1: column 'pulse' is not a number: 'fast'; add it to dataset.missing"),
        ({"pulse_deviation": 1}, [], "column 'pulse_deviation' is the name of a new column; rename it in the table"),
        ({}, ["out=filled.xlsx"], r"out=filled.xlsx: must be a file that ends in .parquet or .csv"),
        (
            {},
            ["dataset.channels=[pulse,heat]", "dataset.units=[bpm,C]"],
            "dataset.units: pulse is in bpm, but in none in the run's data; convert the channel",
        ),
        ({}, ["source=none.csv"], "source=none.csv: no such folder or file"),
        (
            {},
            ["quantiles=[0.1,0.5,0.1]"],
            r"quantiles=\[0.1, 0.5, 0.1\]: two levels have the column quantile_0.1; remove",
        ),
        ({}, ["quantiles=[0.25,0.25000001]"], "two levels have the column quantile_0.25; remove one of them"),
        ({}, ["quantiles=[0.5,1.5]"], r"quantiles=1.5 \(item 2\): input should be less than 1"),
    ],
)
def test_mistake_is_one_line(tmp_path, run, rows, change, settings, reason):
    source = write(
        tmp_path / "new.csv",
        [{**rows[0], **change}, *({**row, **dict.fromkeys(change.keys() - row.keys())} for row in rows[1:])],
    )
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DriftworkError, match=reason) as caught:
        impute.main([str(run), f"source={source}", f"out={tmp_path / 'filled.csv'}", *settings])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_unknown_and_missing_columns_are_named(tmp_path, run, rows):
    lacking = write(tmp_path / "lacking.csv", [{**row, "pulse": None} for row in rows])
    lacking.write_text(lacking.read_text().replace("pulse", "puls"))
    with pytest.raises(DriftworkError, match="has no column 'pulse', but 'series', 'time', 'puls', 'heat'"):
        impute.main([str(run), f"source={lacking}", f"out={tmp_path / 'filled.csv'}"])
    new = write(tmp_path / "new.csv", [*long(rows), {"series": "a", "time": 0.5, "channel": "o2", "value": 1.0}])
    with pytest.raises(DriftworkError, match="channel 'o2' is unknown to the run, which has 'heat', 'pulse'; rename"):
        impute.main([str(run), f"source={new}", f"out={tmp_path / 'filled.csv'}", "dataset.layout=long"])


def test_csv_is_quoted_only_where_needed(tmp_path, run):
    notes = ["plain", 'a "b", c', "two\nlines", None]
    columns = {"note, of a nurse": notes, "series": ["s"] * 4, "time": [1.0, 2.0, 3.0, 4.0]}
    parquet.write_table(pa.table({**columns, "heat": [36.5] * 4, "pulse": [70.0] * 4}), tmp_path / "new.parquet")
    back = filled(run, tmp_path / "new.parquet", tmp_path / "filled.csv")
    assert [row["note, of a nurse"] for row in back] == [note or "" for note in notes]
    filled(run, write(tmp_path / "plain.csv", ward(5)), tmp_path / "plain-filled.csv")
    assert '"' not in (tmp_path / "plain-filled.csv").read_text()
