"""`driftwork forecast` continues the user's series, in the layout, the columns and the time format of the table."""

import csv
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from driftwork.errors import DriftworkError
from launch.tables import forecast
from pipeline.readers.tables import returned
from pipeline.readers.tables.newtimes import horizon
from tests.launch.tables.own import DEVIATION, HIGH, LOW, mean, run_on
from tests.pipeline.tables.making import ward, write

CHANNELS = ("heat", "pulse")
START = datetime(2024, 3, 30, 22, 0, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("line")


def continued(run, source, out, *settings):
    assert forecast.main([str(run), f"source={source}", f"out={out}", *settings]) == 0
    if out.suffix == ".csv":
        with out.open(newline="") as handle:
            return list(csv.DictReader(handle))
    return parquet.read_table(out).to_pylist()


def dated(rows, form):
    """Return rows whose hours are times from `START` on, each as `form` writes it."""
    return [{**row, "time": form(START + timedelta(hours=row["time"]))} for row in rows]


@pytest.fixture(scope="module")
def zoned(tmp_path_factory, rows, line):
    place = tmp_path_factory.mktemp("zoned")
    source = write(place / "ward.csv", dated(rows, datetime.isoformat))
    return run_on(place, source, "dataset.layout=wide")


def ends(rows):
    """Return the first and the last time of each series, of the rows with a value."""
    spans = {}
    for row in rows:
        if row["pulse"] is not None or row["heat"] is not None:
            low, high = spans.get(row["series"], (np.inf, -np.inf))
            spans[row["series"]] = min(low, row["time"]), max(high, row["time"])
    return spans


def test_new_times_follow_each_series(tmp_path, run, rows):
    """Mean, deviation and quantiles are the model's at the new times, counted from the first time of the series."""
    source = write(tmp_path / "new.csv", [{"unit": "ICU", **row} for row in rows])
    back = continued(run, source, tmp_path / "ahead.csv", "until=60", "every=2.5")
    spans = ends(rows)
    expected = [
        (series, last + k * 2.5)
        for series, (_, last) in sorted(spans.items())
        for k in range(1, int((60 - last) / 2.5) + 1)
    ]
    assert [(row["series"], float(row["time"])) for row in back] == expected
    assert {row["unit"] for row in back} == {""}
    for row in back:
        for channel, name in enumerate(CHANNELS):
            center = mean(channel, float(row["time"]) - spans[row["series"]][0])
            found = [
                float(row[name]),
                *(float(row[f"{name}_{x}"]) for x in ("deviation", "quantile_0.05", "quantile_0.95")),
            ]
            bounds = [center, DEVIATION, center + LOW * DEVIATION, center + HIGH * DEVIATION]
            assert np.allclose(found, bounds, rtol=4e-7, atol=0)  # float32


def test_span_counts_from_the_end_of_each_series(tmp_path, run, rows):
    back = continued(
        run, write(tmp_path / "new.parquet", rows), tmp_path / "ahead.parquet", "until=+90min", "every=0.5"
    )
    spans = ends(rows)
    assert [row["time"] for row in back] == [last + k / 2 for _, (_, last) in sorted(spans.items()) for k in (1, 2, 3)]


def test_long_table_is_continued_by_channel(tmp_path, run, rows):
    values = [
        {"series": row["series"], "time": row["time"], "channel": name, "value": row[name]}
        for row in rows
        for name in ("pulse", "heat")
        if row[name] is not None
    ]
    source = write(tmp_path / "new.csv", values)
    back = continued(run, source, tmp_path / "ahead.csv", "until=+2", "every=2", "dataset.layout=long")
    assert list(back[0]) == ["series", "time", "channel", "value", "deviation", "quantile_0.05", "quantile_0.95"]
    spans = sorted(ends(rows).items())
    assert [(row["series"], float(row["time"]), row["channel"]) for row in back] == [
        (series, last + 2, channel) for series, (_, last) in spans for channel in CHANNELS
    ]


@pytest.mark.parametrize("patients", [3, 30])
def test_each_file_is_read_once_for_any_number_of_series(tmp_path, run, monkeypatch, patients):
    """Only the first batch, which names the columns, is read twice. The run predicts 4 series at a time; rows are in
    the order of the last rows of the series.
    """
    made = ward(6, patients=patients)
    files = {f"new/{n}.csv": made[n::2] for n in range(2)}
    for name, part in files.items():
        write(tmp_path / name, part)
    opened = []
    read = returned.batches
    monkeypatch.setattr(returned, "batches", lambda path, *others: opened.append(path.name) or read(path, *others))
    back = continued(run, tmp_path / "new", tmp_path / "ahead.csv", "until=+1", "every=1")
    assert sorted(opened) == ["0.csv", "0.csv", "1.csv", "1.csv"]
    last = {row["series"]: (row["time"], name, n) for name, part in files.items() for n, row in enumerate(part)
            if row["time"] == ends(made)[row["series"]][1]}  # fmt: skip
    assert [(row["series"], float(row["time"])) for row in back] == [
        (series, time + 1) for series, (time, *_) in sorted(last.items(), key=lambda pair: pair[1][1:])
    ]


FORMS = {
    "zulu": lambda time: time.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "offset": lambda time: time.astimezone(timezone(timedelta(hours=-3, minutes=-30))).isoformat(),
    "minutes": lambda time: time.strftime("%Y-%m-%d %H:%M+00:00"),
    "digits": lambda time: time.strftime("%Y-%m-%dT%H:%M:%S.250+00"),
}


@pytest.mark.parametrize("form", FORMS)
def test_times_are_written_as_the_user_writes_them(tmp_path, zoned, rows, form):
    """Zone, separator and digits are those of the last time of the series."""
    source = write(tmp_path / "new.csv", dated(rows, FORMS[form]))
    back = continued(zoned, source, tmp_path / "ahead.csv", "until=+1d", "every=90min")
    expected = [
        FORMS[form](START + timedelta(hours=last + 1.5 * k))
        for _, (_, last) in sorted(ends(rows).items())
        for k in range(1, 17)
    ]
    assert [row["time"] for row in back] == expected


def test_dates_stay_dates(tmp_path, rows, line):
    days = [{**row, "time": f"{START + timedelta(days=4 * row['time']):%Y-%m-%d}"} for row in rows]
    run = run_on(tmp_path, write(tmp_path / "days.csv", days), "dataset.layout=wide")
    back = continued(run, tmp_path / "days.csv", tmp_path / "ahead.csv", "until=+3d", "every=1d")
    spans = ends(rows)
    assert [row["time"] for row in back] == [
        f"{START + timedelta(days=4 * last + k):%Y-%m-%d}" for _, (_, last) in sorted(spans.items()) for k in (1, 2, 3)
    ]


def test_timestamps_keep_type_and_zone(tmp_path, zoned, rows):
    """The times include the hour that Berlin skips on 31 March 2024."""
    kind = pa.timestamp("ms", "Europe/Berlin")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    times = [START + timedelta(hours=hours) for hours in columns["time"]]
    table = pa.table({**columns, "time": pa.array(times, pa.timestamp("ms", "UTC")).cast(kind)})
    parquet.write_table(table, tmp_path / "new.parquet")
    continued(
        zoned, tmp_path / "new.parquet", tmp_path / "ahead.parquet", "until=2024-04-02T00:00+02:00", "every=45min"
    )
    back = parquet.read_table(tmp_path / "ahead.parquet")
    assert back.schema.field("time").type == kind
    until = datetime(2024, 4, 1, 22, tzinfo=UTC)
    lasts = [START + timedelta(hours=last) for _, (_, last) in sorted(ends(rows).items())]
    expected = [
        last + k * timedelta(minutes=45)
        for last in lasts
        for k in range(1, (until - last) // timedelta(minutes=45) + 1)
    ]
    assert back["time"].to_pylist() == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["until=0", "every=1"], "until=0: is not after the end of any series; give a later time"),
        (["until=60", "every=0"], "every=0: must be above 0"),
        (["until=tomorrow", "every=1"], "until=tomorrow: must be a number of h, as in the table, or . a span"),
        (
            ["until=60", "every=1w"],
            "every=1w: must be a number, in the unit of the table, or one with a unit, as in 6h",
        ),
        (["until=60"], "every"),
    ],
)
def test_mistake_is_one_line(tmp_path, run, rows, settings, reason):
    source = write(tmp_path / "new.csv", rows)
    with pytest.raises(DriftworkError, match=reason) as caught:
        forecast.main([str(run), f"source={source}", f"out={tmp_path / 'ahead.csv'}", *settings])
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv"]


def test_zone_must_be_that_of_the_run(tmp_path, zoned, rows):
    naive = write(tmp_path / "new.csv", dated(rows, lambda time: f"{time:%Y-%m-%dT%H:%M}"))
    reason = "column 'time' has times without a zone, but the run was trained on times with; write them alike"
    with pytest.raises(DriftworkError, match=reason):
        forecast.main([str(zoned), f"source={naive}", f"out={tmp_path / 'a.csv'}", "until=+1d", "every=1h"])
    aware = write(tmp_path / "new.csv", dated(rows, FORMS["zulu"]))
    with pytest.raises(
        DriftworkError, match="until=2024-05-01: the times of the table have a zone; write until in the same way"
    ):
        forecast.main([str(zoned), f"source={aware}", f"out={tmp_path / 'a.csv'}", "until=2024-05-01", "every=1h"])


@pytest.mark.parametrize(
    ("until", "every", "unit", "last", "expected"),
    [
        ("+0.3", "0.1", "h", 1.0, [1.1, 1.2, 1.3]),  # 0.3 / 0.1 is below 3 in doubles
        ("2", "30min", "h", 1.0, [1.5, 2.0]),
        ("+1", "250ms", "iso", 0, [250_000_000 * k for k in (1, 2, 3, 4)]),
        ("1970-01-01T00:00:01.5", "1", "iso", 0, [10**9]),
        ("0.5", "1", "d", 1.0, []),
    ],
)
def test_horizon_counts_whole_steps(until, every, unit, last, expected):
    assert horizon(until, every, unit, zoned=False).ticks(last) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("until", "every", "unit", "reason"),
    [
        ("nan", "1", "h", "until=nan: must be a number of h, .*, up to 1e.15 seconds"),
        ("inf", "1", "h", "until=inf: must be a number of h"),
        ("+1e300", "1e299", "h", "every=1e299: must be a number, .*, up to 1e.15 seconds"),
        ("+1e12", "1", "h", "until=\\+1e12: must be a number, .*, up to 1e.15 seconds"),
        ("+100", "1e-12", "h", "every: makes more than 1048576 new times of a series"),
        ("+1", "1e-320", "h", "every: makes more than 1048576 new times of a series"),
        ("+1d", "1us", "iso", "every: makes more than 1048576 new times of a series"),
        ("3000-01-01", "1d", "iso", "until: is after the year 2262"),
        ("+400000d", "10000d", "iso", "until: is after the year 2262"),
    ],
)
def test_horizon_out_of_range_is_one_line(until, every, unit, reason):
    with pytest.raises(DriftworkError, match=f"^{reason}"):
        horizon(until, every, unit, zoned=False).ticks(np.int64(0) if unit == "iso" else np.float64(0))


def test_last_nanosecond_can_be_forecast():
    latest, second = 2**63 - 1, 10**9
    two = horizon("+2", "1", "iso", zoned=False)
    assert two.ticks(np.int64(latest - 2 * second)).tolist() == [latest - second, latest]
