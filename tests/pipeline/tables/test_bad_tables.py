"""Bad input gives an error of one line with the row, and loses only its own file or series."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from driftwork.errors import DriftworkError
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import MAX_CHANNELS
from pipeline.sequence import UnreadableError
from tests.pipeline.tables.making import HEADER, gathered, sequences

OTHER_ZONE = "column 'time' has times with and without a zone; write all times alike"
MISSING = "add it to dataset.missing if it means a missing value"
WRITE = "write times as 2024-12-31T23:59"
ROWS = [
    ("s,1,x,abc", {}, f"row 2: column 'value' is not a number: 'abc'; {MISSING}"),
    ("s,1,x,1_0", {}, f"row 2: column 'value' is not a number: '1_0'; {MISSING}"),
    ('s,1,x,"70,5"', {}, "row 2: column 'value' is not a number: '70,5'; write decimals with a point"),
    ("s,1,x,nan", {}, "row 2: column 'value' is NaN; add NaN to dataset.missing if it means a missing value"),
    ("s,1,x,-inf", {}, "row 2: column 'value' is infinite"),
    ("s,1,x,1e39", {}, "row 2: column 'value' is 1e+39, beyond float32"),
    (
        "s,1,x,0.5",
        {"likelihood": "bernoulli"},
        "row 2: column 'value' is 0.5, but likelihood=bernoulli allows only 0 and 1",
    ),
    ("s,noon,x,1", {}, "row 2: column 'time' is not a number: 'noon'"),
    ("s,2024-05-01,x,1", {}, "row 2: column 'time' is not a number: '2024-05-01'; set dataset.time_unit=iso for dates"),
    ("s,,x,1", {}, "row 2: column 'time' is empty"),
    ("s,-1e16,x,1", {}, "row 2: column 'time' is -1e+16, beyond 1e+15 seconds"),
    (",1,x,1", {}, "row 2: column 'series' is empty"),
    ("s,1,,1", {}, "row 2: column 'channel' is empty"),
    ("s,1,x", {}, "row 2: 3 columns, 4 in the header"),
    ("s,1,x,1,1", {}, "row 2: 5 columns, 4 in the header"),
    ("s,1,\udcff,1", {}, "row 2: column 'channel' is not UTF-8 text: 'ÿ'"),
    ('s,1,x,"1', {}, "row 2: column 'value' is not a number: '1\\ns,2,x,1'; " + MISSING),
]
TIMES = [
    ("2024-02-30", "row 2: column 'time' is not a time by ISO 8601 of 1678 to 2261: '2024-02-30'; " + WRITE),
    ("1500-01-01", "row 2: column 'time' is not a time by ISO 8601 of 1678 to 2261: '1500-01-01'; " + WRITE),
    ("2024-01-02T00:00Z", f"row 2: {OTHER_ZONE}"),
    ("2024-01-02T00:00:00.5-0330", f"row 2: {OTHER_ZONE}"),
    (
        "12.5",
        "row 2: column 'time' is not a time by ISO 8601 of 1678 to 2261: '12.5'; set dataset.time_unit to the unit of "
        "the numbers",
    ),
]
FILES = [
    (b"", "t.csv", "empty CSV file"),
    ((HEADER + "s,0,x,1\n").encode("utf-16"), "t.csv", "is encoded in UTF-16; save it as UTF-8"),
    (f"series,time,{','.join(map(str, range(10**6)))}\n".encode(), "t.csv", "its header is longer than 1 MiB"),
    (b"PAR1" + bytes(100), "t.csv", "is a Parquet file; name it .parquet"),
    (gzip.compress(HEADER.encode())[:-9], "t.csv.gz", "truncated compressed stream"),
    (HEADER.encode(), "t.csv.gz", "zlib inflate failed: incorrect header check"),
    (
        HEADER.replace(",", ";").encode(),
        "t.csv",
        "has no ',' in 'series;time;channel;value'; set dataset.separator=';'",
    ),
    (
        HEADER.replace("series", "id").encode(),
        "t.csv",
        "has no column 'series', but 'id', 'time', 'channel', 'value'; set "
        "dataset.series, dataset.layout or dataset.separator to what the file has",
    ),
    (
        b"series;time;channel;value\ns;0;x;1,5\n",
        "t.csv",
        "row 1: 2 columns, 1 in the header; set dataset.separator to the character between columns",
    ),
    (b"series,series,time,channel,value\na,b,0,x,1\n", "t.csv", "two columns are named 'series'; rename one"),
    (HEADER.encode(), "t.npz", "is not an .npz file"),
    (HEADER.encode() + b's,0,x,"' + b"\n1" * 2**20, "t.csv", "a row is longer than 1 MiB, perhaps because a quote"),
]


def refused(tmp_path, data, name="t.csv", **settings):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
    with pytest.raises(UnreadableError) as caught:
        sequences(path, tmp_path / "scratch", **{"time_unit": "s", **settings})
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(("row", "settings", "said"), ROWS, ids=[row[0] for row in ROWS])
def test_bad_row_is_named(tmp_path, row, settings, said):
    assert refused(tmp_path, f"{HEADER}s,0,x,1\n{row}\ns,2,x,1\n", **settings) == said


@pytest.mark.parametrize(("time", "said"), TIMES, ids=[time for time, _ in TIMES])
def test_bad_time_is_named(tmp_path, time, said):
    text = f"{HEADER}s,2024-01-01T00:00,x,1\ns,{time},x,1\n"
    assert refused(tmp_path, text, time_unit="iso") == said


@pytest.mark.parametrize(("data", "name", "said"), FILES, ids=[said for *_, said in FILES])
def test_bad_file_is_named(tmp_path, data, name, said):
    """Each file is refused with its reason, also one whose header names 10^6 channels."""
    assert refused(tmp_path, data, name).startswith(said)


def test_row_of_a_later_block_is_named(tmp_path):
    """The row is found by bisection, in a later block: 500,000 rows are 6 MB."""
    lines = ["s,0,x,1"] * 500_000
    lines[432_100] = "s,0,x,?"
    said = refused(tmp_path, HEADER + "\n".join(lines))
    assert said == f"row 432101: column 'value' is not a number: '?'; {MISSING}"


def test_row_of_a_later_row_group_is_named(tmp_path):
    values = np.zeros(10_000)
    values[7_654] = np.inf
    columns = {"series": ["s"] * 10_000, "time": np.arange(10_000), "channel": ["x"] * 10_000, "value": values}
    pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=999)
    said = refused(tmp_path, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
    assert said == "row 7655: column 'value' is infinite"


@pytest.mark.parametrize("order", ["s,5,x,1\n{}s,5,x,2\n", "s,5,x,1\ns,5,x,2\n{}"])
def test_two_values_at_one_time_cost_their_series(tmp_path, order):
    (tmp_path / "t.csv").write_text(HEADER + order.format("r,0,x,1\nr,1,x,2\n"))
    series = gathered(tmp_path / "t.csv", tmp_path / "scratch", time_unit="s")
    first, second = series.find(None)
    assert len(series.read(None, first)) == 1
    with pytest.raises(UnreadableError) as caught:
        series.read(None, second)
    rows = ("row 1", "row 4") if order.startswith("s,5,x,1\n{}") else ("row 1", "row 2")
    said = f"channel 'x' has two values at one time, in t.csv: {rows[0]} and t.csv: {rows[1]}; keep one of them"
    assert str(caught.value) == said


def test_two_values_in_two_files_are_named(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"{HEADER}r,0,x,1\ns,5,x,1\n")
    series = gathered(tmp_path, tmp_path / "scratch", time_unit="s")
    with pytest.raises(UnreadableError, match=r"a\.csv: row 2 and b\.csv: row 2; keep one"):
        series.read(None, series.find(None)[1])


def test_unsorted_times_are_sorted(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER + "s,3,x,3\ns,1,x,1\ns,2,x,2\n")
    found = sequences(tmp_path / "t.csv", tmp_path / "scratch", time_unit="s")["s-0000"]
    assert (found.times.tolist(), found.values[:, 0].tolist()) == ([0, 1, 2], [1, 2, 3])


def test_missing_may_be_written_as_nan(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER + "s,1,x,1\ns,2,x,nan\ns,3,x,NA\ns,4,x,4\n")
    settings = {"time_unit": "s", "missing": ("", "NaN", "NA")}
    assert sequences(tmp_path / "t.csv", tmp_path / "scratch", **settings)["s-0000"].values.tolist() == [[1], [4]]


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_too_many_channels_are_refused(tmp_path, layout):
    names = [f"c{number}" for number in range(20_000 if layout == "wide" else MAX_CHANNELS + 1)]
    text = HEADER + "".join(f"s,0,{name},1\n" for name in names)
    if layout == "wide":
        text = f"series,time,{','.join(names)}\n"
    said = refused(tmp_path, text, layout=layout)
    count = "20000 channels" if layout == "wide" else "row 10001: more than 10000 channels"
    assert said.startswith(f"{count}, and at most 10000 are possible; list those to read in dataset.channels")


def test_channel_that_is_never_observed_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("series,time,x,y\ns,0,1,\ns,1,2,\n")
    with pytest.raises(DriftworkError, match="channel 'y' has no value in any row; list the channels that have values"):
        gathered(tmp_path / "t.csv", tmp_path / "scratch", layout="wide", time_unit="s")


def test_constant_channel_is_reported(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(f"series,time,x,{'y' * 50}\ns,0,1,7\ns,1,2,7\n")
    gathered(tmp_path / "t.csv", tmp_path / "scratch", layout="wide", time_unit="s")
    assert capsys.readouterr().out == f"channel '{'y' * 40}'... is always 7; nothing can be learnt from it\n"


CONTRADICTIONS = [
    ("g1", "g2", {"group": "of"}, "b.csv: series 's' has 'g2' in column 'of', and 'g1' in a.csv"),
    ("1", "2", {"static_numbers": ("of",)}, "b.csv: series 's' has '2.0' in column 'of', and '1.0' in a.csv"),
]


@pytest.mark.parametrize(("one", "other", "settings", "said"), CONTRADICTIONS)
def test_contradicting_files_are_named(tmp_path, one, other, settings, said):
    for name, cell in (("a.csv", one), ("b.csv", other)):
        (tmp_path / name).write_text(f"series,time,channel,value,of\ns,{name == 'a.csv':d},x,1,{cell}\n")
    with pytest.raises(DriftworkError, match=said):
        gathered(tmp_path, tmp_path / "scratch", time_unit="s", **settings)


def test_files_with_and_without_zones_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(f"{HEADER}s,2024-01-01,x,1\n")
    (tmp_path / "b.csv").write_text(f"{HEADER}s,2024-01-01T00:00Z,x,1\n")
    with pytest.raises(DriftworkError, match=r"b\.csv has times with a zone and a\.csv without; write all times alike"):
        gathered(tmp_path, tmp_path / "scratch")


def test_group_in_two_splits_is_refused(tmp_path):
    text = "series,time,channel,value,g,split\ns,0,x,1,g,train\nt,0,x,2,g,test\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DriftworkError, match="group 'g' is in two splits: series 's' in train and 't' in test"):
        gathered(tmp_path / "t.csv", tmp_path / "scratch", time_unit="s", group="g", split="split")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"channels": ["a", "b"], "units": ["m"]}, "units has 1 entries, channels 2"),
        ({"stride": 1}, "stride needs a window"),
        ({"group": "series"}, "column 'series' is named twice"),
        ({"separator": ";;"}, "at most 1 character"),
    ],
)
def test_contradicting_settings_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        TableConfig(**settings)


def test_contradiction_names_the_files_that_disagree(tmp_path):
    for name, age in {"a.csv": "", "b.csv": "3", "c.csv": "4"}.items():
        (tmp_path / name).write_text(f"series,time,channel,value,age\ns,0,{name[0]},1,{age}\n")
    with pytest.raises(DriftworkError, match=r"^c\.csv: series 's' has '4\.0' in column 'age', and '3\.0' in b\.csv"):
        gathered(tmp_path, tmp_path / "scratch", time_unit="s", static_numbers=("age",))


def test_wide_table_without_channels_is_refused(tmp_path):
    said = refused(tmp_path, "series,time\ns,0\n", layout="wide")
    assert said == "has no column for a channel; set dataset.layout or dataset.separator to the file's"


def test_other_columns_of_a_wide_table_are_named(tmp_path):
    listed = "list the columns with values in dataset.channels"
    static = "name a column of categories in dataset.static_categories"
    said = refused(tmp_path, "series,time,x,note\ns,0,1,well\n", layout="wide")
    assert said == f"row 1: column 'note' is not a number: 'well'; {MISSING}; {static}, or {listed}"
    (tmp_path / "index").mkdir()
    said = refused(tmp_path / "index", ",series,time,x\n0,s,0,1\n", layout="wide")
    assert said == f"column '' looks like row numbers of pandas; write the table with index=False, or {listed}"
    (tmp_path / "t.csv").write_text(",series,time,x,note\n0,s,0,1,well\n1,s,1,2,ill\n")
    assert (
        gathered(tmp_path / "t.csv", tmp_path / "kept", layout="wide", time_unit="s", channels=("x",)).spec().dim == 1
    )


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_time_that_no_double_holds_is_refused(tmp_path, name):
    columns = {"series": ["s", "s"], "time": [2**53, 2**53 + 1], "channel": ["x", "x"], "value": [1.0, 2.0]}
    text = HEADER + "".join(f"s,{time},x,1\n" for time in columns["time"])
    pa.parquet.write_table(pa.table(columns), tmp_path / "p")
    data = text if name == "t.csv" else (tmp_path / "p").read_bytes()
    said = refused(tmp_path, data, name, time_unit="ns")
    assert said == f"row 2: column 'time' is an integer that no double can represent: '{2**53 + 1}'"
