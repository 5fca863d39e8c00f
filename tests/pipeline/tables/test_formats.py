"""Sequences, times, zones and names do not depend on the layout and format of a table."""

from datetime import UTC, date, datetime, timedelta, timezone
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.readers.tables import settle
from pipeline.readers.tables.arrow import batches
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.series import windows
from tests.pipeline.tables.making import HEADER, WARD, equal, gathered, long, sequences, ward, write

FORMS = ["wide.csv", "wide.csv.gz", "wide.parquet", "wide.npz", "long.csv", "long.tsv.gz", "long.parquet", "long.npz"]


@pytest.fixture(scope="module")
def oracle():
    """Return the sequences of `ward`, assembled by hand: times in seconds, values and mask [T, 2] (heat, pulse)."""
    found = {}
    for row in ward(0):
        found.setdefault(row["series"], []).append((row["time"], row["heat"], row["pulse"]))
    return {
        name: (
            np.array([3600 * (row[0] - rows[0][0]) for row in rows]),
            np.array([[cell or 0 for cell in row[1:]] for row in rows], np.float32),
            np.array([[cell is not None for cell in row[1:]] for row in rows]),
        )
        for name, rows in found.items()
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_sequences(tmp_path, oracle, form):
    path = write(tmp_path / form, ward(0) if form.startswith("wide") else long(ward(0)))
    settings = WARD | {"layout": form[:4], "separator": "\t" if ".tsv" in form else ","}
    found = {sequence.about["series"]: sequence for sequence in sequences(path, tmp_path / "s", **settings).values()}
    assert found.keys() == oracle.keys()
    for name, (times, values, mask) in oracle.items():
        assert np.array_equal(found[name].times, times)
        assert np.array_equal(found[name].values, values)
        assert np.array_equal(found[name].mask, mask)
        assert not found[name].mask.all()


@pytest.mark.parametrize("order", ["sorted", "by time", "shuffled", "files"])
def test_series_is_assembled_in_any_order(tmp_path, monkeypatch, order):
    """Chunks have 16 observations, so that a small table is streamed and divided like a large one."""
    monkeypatch.setattr(settle, "CHUNK", 16)
    monkeypatch.setattr(settle, "_READ", 5)
    rows = long(ward(1))
    whole = sequences(write(tmp_path / "whole.csv", rows), tmp_path / "1", time_unit="h")
    if order == "by time":
        rows.sort(key=lambda row: row["time"])
    if order == "shuffled":
        Random(0).shuffle(rows)
    source = write(tmp_path / "other" / "0.csv", rows[::2] if order == "files" else rows)
    if order == "files":
        write(tmp_path / "other" / "1.parquet", rows[1::2])
    other = sequences(source.parent, tmp_path / "2", time_unit="h")
    assert whole.keys() == other.keys()
    assert all(equal(whole[key], other[key]) for key in whole)
    assert len(list((tmp_path / "2").glob("chunk-*.rows"))) > 1
    assert not [*(tmp_path / "2").glob("part-*.rows"), *(tmp_path / "2").glob("bucket-*.rows")]


def test_folder_glob_and_file_are_sources(tmp_path):
    for day in range(3):
        (tmp_path / "raw" / f"day {day}").mkdir(parents=True)
        (tmp_path / "raw" / f"day {day}" / "a.csv").write_text(f"{HEADER}s,{day},x,1\n")
    (tmp_path / "raw" / "notes.txt").write_text("not a table")
    settings = {"time_unit": "d"}
    folder = sequences(tmp_path / "raw", tmp_path / "1", **settings)
    some = sequences(tmp_path / "raw" / "day [01]" / "*.csv", tmp_path / "2", **settings)
    one = sequences(tmp_path / "raw" / "day 0" / "a.csv", tmp_path / "3", **settings)
    assert [found["s-0000"].times.tolist() for found in (folder, some, one)] == [[0, 86400, 172800], [0, 86400], [0]]


def test_times_with_zones_are_restored(tmp_path):
    """Times are restored for any offset from UTC, to the nanosecond, across three centuries."""
    random = Random(3)
    zones = [timezone(timedelta(minutes=random.randrange(-14 * 60, 14 * 60))) for _ in range(50)]
    centuries = 86400 * 365 * 300
    moments = [datetime(1700, 1, 1, tzinfo=zone) + timedelta(seconds=random.randrange(centuries)) for zone in zones]
    nanos = [random.randrange(10**9) for _ in moments]
    text = "".join(
        f"s{row},{moment:%Y-%m-%dT%H:%M:%S}.{nanos[row]:09d}{moment.isoformat()[19:]},x,{row}\n"
        for row, moment in enumerate(moments)
    )
    (tmp_path / "a.csv").write_text(HEADER + text)
    series = gathered(tmp_path / "a.csv", tmp_path / "s")
    assert series.spec().table.zone == "UTC"
    for item in series.find(None):
        row = int(item.name[1:])
        (sequence,) = series.read(None, item)
        utc = moments[row].astimezone(UTC)
        assert sequence.about["start"] == f"{utc:%Y-%m-%dT%H:%M:%S}.{nanos[row]:09d}Z"


def test_times_after_the_first_are_restored(tmp_path):
    """A double represents nanoseconds for 104 days, so that start + times is exactly the time of the table."""
    random = Random(4)
    nanos = sorted(random.sample(range(10**15), 60))
    start = np.datetime64("1999-12-31T23:59:59.000000001", "ns")
    text = "".join(f"s,{start + np.timedelta64(nano, 'ns')},x,{row}\n" for row, nano in enumerate(nanos))
    (tmp_path / "a.csv").write_text(HEADER + text)
    sequence = sequences(tmp_path / "a.csv", tmp_path / "s")["s-0000"]
    assert not sequence.about["start"].endswith("Z")
    first = np.datetime64(sequence.about["start"], "ns")
    back = [first + np.timedelta64(round(time * 1e9), "ns") for time in sequence.times.tolist()]
    assert back == [start + np.timedelta64(nano, "ns") for nano in nanos]


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_parquet_timestamps_equal_texts(tmp_path, zone):
    times = [datetime(2024, 3, 31, hour, 30) for hour in range(4)]
    column = pa.array([1711852200000000 + 10**6 * second for second in range(4)], pa.timestamp("us", tz=zone))
    parquet.write_table(
        pa.table({"series": [1, 1, 2, 2], "time": column, "channel": ["x"] * 4, "value": pa.array([1, 2, 3, 4])}),
        tmp_path / "a.parquet",
    )
    texts = [f"2024-03-31T02:30:0{second}{'Z' if zone else ''}" for second in range(len(times))]
    rows = zip([1, 1, 2, 2], texts, [1, 2, 3, 4], strict=True)
    (tmp_path / "a.csv").write_text(HEADER + "".join(f"{name},{time},x,{value}\n" for name, time, value in rows))
    one, other = (sequences(tmp_path / f"a.{end}", tmp_path / end) for end in ("parquet", "csv"))
    assert one.keys() == other.keys()
    assert all(equal(one[key], other[key]) for key in one)


UNITS = [("ns", 1e-9), ("ms", 1e-3), ("s", 1), ("min", 60), ("h", 3600), ("d", 86400)]


@pytest.mark.parametrize(("unit", "factor"), UNITS)
def test_numbers_are_times_in_their_unit(tmp_path, unit, factor):
    (tmp_path / "a.csv").write_text(HEADER + "s,-8,x,1\ns,2.5,x,2\n")
    sequence = sequences(tmp_path / "a.csv", tmp_path / "s", time_unit=unit)["s-0000"]
    assert sequence.about["start"] == -8
    assert sequence.times.tolist() == [0, 10.5 * factor]


def test_dictionaries_and_decimals_are_read(tmp_path):
    from decimal import Decimal

    columns = {
        "series": pa.array(["a", "a", "b"]).dictionary_encode(),
        "time": pa.array([1, 2, 3], pa.int8()),
        "channel": pa.array(["x", "x", "x"], pa.large_string()),
        "value": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = sequences(tmp_path / "a.parquet", tmp_path / "s", time_unit="s")
    assert {key: sequence.values.tolist() for key, sequence in found.items()} == {"a-0000": [[1.5]], "b-0000": [[2.5]]}


def test_block_of_an_npz_is_all_channels(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    values[2, 1] = np.nan
    np.savez(tmp_path / "bed 7.npz", time=np.arange(5), value=values)
    found = sequences(tmp_path / "bed 7.npz", tmp_path / "s", layout="wide", time_unit="s")["bed_7-0000"]
    assert np.array_equal(found.mask, ~np.isnan(values))
    assert np.array_equal(found.values, np.nan_to_num(values))


@pytest.mark.parametrize(
    ("window", "stride", "cut"),
    [
        (None, None, [(0, 6)]),
        (4, None, [(0, 3), (3, 5), (5, 6)]),
        (4, 2, [(0, 3), (2, 4), (3, 5), (4, 6)]),
        (1, 8, [(0, 1), (3, 4)]),
        (100, 1, [(0, 6)]),
    ],
)
def test_windows_cut_by_time(window, stride, cut):
    times = np.array([0.0, 1, 3, 4, 7, 9.5])
    if (window, stride) == (1, 8):
        times = np.array([0.0, 3, 5, 8, 9.5, 15])
    found = windows(times, TableConfig(window=window, stride=stride))
    assert [(part.start, part.stop) for part in found] == cut


@pytest.mark.parametrize(("window", "step"), [(0.1, 0.1), (0.3, 0.1), (0.7, 0.01), (1.1, 0.2)])
def test_windows_divide_all_times(window, step):
    """Each time is in one window, even if no double represents the edges exactly."""
    times = np.arange(2000) * step
    cut = [range(len(times))[part] for part in windows(times, TableConfig(window=window))]
    assert np.array_equal(np.concatenate(cut), np.arange(len(times)))


def test_three_centuries_in_nanoseconds(tmp_path):
    """An int64 cannot count this many nanoseconds."""
    days = ["1700-01-01", "1850-01-01", "2008-01-01"]
    (tmp_path / "t.csv").write_text(HEADER + "".join(f"s,{day},x,1\n" for day in days))
    found = sequences(tmp_path / "t.csv", tmp_path / "scratch", time_unit="iso")["s-0000"]
    dates = [date.fromisoformat(day) for day in days]
    assert found.times.tolist() == [(day - dates[0]).days * 86400.0 for day in dates]


def test_channels_left_out_may_hold_anything(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER + "s,0,alarm,1\ns,1,note,hello\ns,2,pulse,70\ns,3,alarm,0\n")
    settings = {"time_unit": "s", "channels": ("alarm",), "likelihood": "bernoulli"}
    found = sequences(tmp_path / "t.csv", tmp_path / "scratch", **settings)["s-0000"]
    assert (found.times.tolist(), found.values.tolist()) == ([0, 3], [[1], [0]])


def held(path):
    """Read a file, and return the number of its rows and the most bytes that pyarrow has held."""
    pools = [getattr(pa, f"{name}_memory_pool")() for name in pa.supported_memory_backends()]
    before = sum(pool.bytes_allocated() for pool in pools)
    rows, most = 0, 0
    for batch in batches(path, TableConfig(), list):
        rows, most = rows + batch.rows, max(most, sum(pool.bytes_allocated() for pool in pools) - before)
    return rows, most


def test_memory_does_not_grow_with_a_csv_file(tmp_path):
    """A file of 64 MiB takes 32 blocks of 1 MiB, and a few for the columns of a batch."""
    rows = "s,1,x,0.123\n" * 2**16
    (tmp_path / "t.csv").write_text(HEADER + rows * (2**26 // len(rows)))
    count, most = held(tmp_path / "t.csv")
    assert count == 2**16 * (2**26 // len(rows))
    assert 0 < most < 48 * 2**20


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    """A row group may be as large as the file."""
    values = np.random.default_rng(0).normal(size=2**20)
    table = pa.table({"series": np.zeros(len(values), np.int8), "value": values})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=len(values), use_dictionary=False)
    count, most = held(tmp_path / "t.parquet")
    assert count == len(values)
    assert 0 < most < values.nbytes


def test_series_without_a_value_is_reported(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(HEADER + "r,0,x,1\ns,1,x,\n")
    assert list(sequences(tmp_path / "t.csv", tmp_path / "scratch", time_unit="s")) == ["r-0000"]
    assert capsys.readouterr().out.startswith("1 series have no value and are left out, the first 's'\n")


def test_binary_channels_are_found(tmp_path):
    """A channel is binary with both of the values 0 and 1 and no others."""
    cells = {"alarm": (0, 1), "always": (1, 1), "level": (0, 0.5), "pulse": (70, 1), "state": (1, 0)}
    rows = [f"s,{t},{name},{cells[name][t]}\n" for t in (0, 1) for name in cells]
    (tmp_path / "t.csv").write_text(HEADER + "".join(rows))
    spec = gathered(tmp_path / "t.csv", tmp_path / "scratch", time_unit="s").spec()
    assert spec.table is not None
    assert spec.table.binary == ("alarm", "state")
