"""PhysioNet 2012 and USHCN on small files of their formats: fetched from loopback, written as CSV, read as a table."""

import gzip
import json

import numpy as np
import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import fetch as command
from pipeline.fetch.fetch import fetch
from pipeline.fetch.to_table import stations, stays, write
from pipeline.readers.tables.config import TableConfig
from tests.pipeline.fetch.bad_server import serving
from tests.pipeline.fetch.test_fetch import QUICK, archive, config
from tests.pipeline.tables.making import sequences
from tests.places import ROOT

STAY = """Time,Parameter,Value
00:00,RecordID,132539
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,70.5
00:07,GCS,15
00:37,HR,77
00:37,HR,79
35:19,Temp,37.3
35:19,Weight,-1
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as started:
        yield started


def month(station, year, number, element, days):
    """Write a line as documented; `days` maps a day to its value and quality flag."""
    cells = [days.get(day, (-9999, " ")) for day in range(1, 32)]
    return f"{station}{year}{number:>2}{element}" + "".join(f"{value:>5} {flag}0" for value, flag in cells) + "\n"


USHCN = (
    month("011084", 1995, 12, "TMAX", {1: (50, " ")})
    + month("011084", 1996, 2, "TMAX", {28: (61, " "), 29: (-5, " ")})
    + month("011084", 1996, 2, "PRCP", {28: (125, " "), 29: (1, "D")})
    + month("012813", 2000, 12, "SNOW", {31: (37, " ")})
    + month("012813", 2001, 1, "SNWD", {1: (4, " ")})
)


def settings(name):
    """Return the settings of the data set in the shipped config of a source."""
    from pipeline.prepare.prepare import PrepareConfig

    found = load(PrepareConfig, ROOT / f"configs/prepare/{name}.yaml", ["source=x"]).dataset
    assert isinstance(found, TableConfig)
    return found.model_dump(exclude={"name"})


@pytest.mark.network
def test_stays_become_series_of_a_table(server, tmp_path):
    other = STAY.replace("132539", "142641").replace("Height,-1", "Height,180.3")
    server.files["set-a.tar.gz"] = archive("tar", **{"set-a/132539.txt": STAY.encode()})
    server.files["set-b.tar.gz"] = archive("tar", **{"set-b/142641.txt": other.encode()})
    wanted = config("physionet2012", server, tmp_path / "to")
    done = fetch(wanted, QUICK)
    assert (done.files, done.new, done.table) == (2, 2, tmp_path / "to/physionet2012.csv")
    found = list(sequences(done.table, tmp_path / "scratch", **settings("physionet2012")).values())
    assert [sequence.about["series"] for sequence in found] == ["132539", "142641"]
    assert found[0].about["static"] == [54, None, 70.5, 1, 1]
    assert found[1].about["static"][1] == 180.3
    assert (found[0].times + 60 * found[0].about["start"]).tolist() == [0, 7 * 60, 37 * 60, (35 * 60 + 19) * 60]
    channels = ["GCS", "HR", "Temp", "Weight"]
    rows, columns = np.nonzero(found[0].mask)
    entries = [(row, channels[column]) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
    assert entries == [(0, "Weight"), (1, "GCS"), (2, "HR"), (3, "Temp")]
    assert found[0].values[rows, columns].tolist() == pytest.approx([70.5, 15, 78, 37.3], rel=1e-7)


@pytest.mark.network
def test_stations_become_series_of_a_table(server, tmp_path):
    server.files["us.txt.gz"] = gzip.compress(USHCN.encode())
    done = fetch(config("ushcn", server, tmp_path / "to"), QUICK)
    assert done.table.read_text().splitlines() == [
        "series,time,channel,value",
        "011084,1996-02-28,TMAX,61.0", "011084,1996-02-29,TMAX,-5.0", "011084,1996-02-28,PRCP,1.25",
        "012813,2000-12-31,SNOW,3.7",
    ]  # fmt: skip
    chosen = {**settings("ushcn"), "channels": ("PRCP", "SNOW", "TMAX"), "units": ()}
    found = list(sequences(done.table, tmp_path / "scratch", **chosen).values())
    assert [sequence.about["start"] for sequence in found] == [
        "1996-02-28T00:00:00.000000000",
        "2000-12-31T00:00:00.000000000",
    ]
    assert found[0].values.tolist() == [[1.25, 0, 61], [0, 0, -5]]


@pytest.mark.network
def test_table_is_written_once_for_equal_files(server, tmp_path):
    server.files["us.txt.gz"] = gzip.compress(USHCN.encode())
    table = fetch(config("ushcn", server, tmp_path), QUICK).table
    first = table.stat().st_ino
    assert fetch(config("ushcn", server, tmp_path), QUICK).table.stat().st_ino == first
    assert "1995-12-01" not in table.read_text()
    fetch(config("ushcn", server, tmp_path, "first_year=1995"), QUICK)
    assert "1995-12-01" in table.read_text()
    lock = json.loads((tmp_path / "fetch.lock.json").read_text())["files"]["us.txt.gz"]
    assert lock["table"]["settings"] == {"name": "ushcn", "first_year": 1995, "last_year": 2000}


@pytest.mark.network
def test_killed_fetch_of_a_table_is_continued(server, tmp_path, monkeypatch):
    """The fetch is killed once the table is written but not recorded, and while the table is written again for other
    settings."""
    server.files["us.txt.gz"] = gzip.compress(USHCN.encode())

    def killed(path, columns, rows):
        write(path, columns, rows)
        raise KeyboardInterrupt

    for settings, first in (([], "1996-02-28"), (["first_year=1995"], "1995-12-01")):
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.fetch.fetch.write", killed)
            with pytest.raises(KeyboardInterrupt):
                fetch(config("ushcn", server, tmp_path, *settings), QUICK)
        assert first in fetch(config("ushcn", server, tmp_path, *settings), QUICK).table.read_text()
    assert "1995" not in fetch(config("ushcn", server, tmp_path), QUICK).table.read_text()


@pytest.mark.network
def test_users_own_table_is_not_touched(server, tmp_path):
    server.files["us.txt.gz"] = gzip.compress(USHCN.encode())
    (tmp_path / "ushcn.csv").write_text("mine")
    with pytest.raises(DriftworkError, match=r"ushcn\.csv: exists already, and was not written from us\.txt\.gz"):
        fetch(config("ushcn", server, tmp_path), QUICK)
    assert (tmp_path / "ushcn.csv").read_text() == "mine"


@pytest.mark.network
def test_command_names_the_next_command(server, tmp_path, capsys):
    server.files["us.txt.gz"] = gzip.compress(USHCN.encode())
    assert command.main(["ushcn", f"to={tmp_path}", f"url={server.url}"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"driftwork prepare configs/prepare/ushcn.yaml source={tmp_path}/ushcn.csv out=DIR"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Time;Parameter;Value\n", "line 1: Time;Parameter;Value is not Time,Parameter,Value"),
        ("Time,Parameter,Value\n00:07,GCS\n", "line 2: 2 cells, not three"),
        ("Time,Parameter,Value\n00:61,GCS,15\n", "line 2: 00:61 is not a time in hours and minutes"),
        ("Time,Parameter,Value\n00:01,GCS,high\n", "line 2: high is not a number"),
        ("Time,Parameter,Value\n00:01,GCS,nan\n", "line 2: nan is not a number"),
        (f"Time,Parameter,Value\n00:01,GCS,{'1' * 200_000}\n", "line 2: 1111"),
    ],
)
def test_stay_of_another_format_is_named(tmp_path, text, said):
    (tmp_path / "1.txt").write_text(text)
    with pytest.raises(DriftworkError) as caught:
        list(stays([tmp_path]))
    assert str(caught.value).startswith(f"{tmp_path}/1.txt: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>\n", "line 1: is not a month of the daily data: <html>"),
        (USHCN.replace("TMAX", "WIND"), "line 1: is not a month of the daily data: 0110841995"),
        (USHCN.replace("   61", "   6x"), "line 2: day 28:    6x is not a number"),
        (month("011084", 1996, 2, "TMAX", {30: (1, " ")}), "line 1: day 30 of month 2 holds a value"),
    ],
)
def test_station_of_another_format_is_named(tmp_path, text, said):
    (tmp_path / "us.txt.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DriftworkError) as caught:
        list(stations(tmp_path / "us.txt.gz", 1990, 2010))
    assert str(caught.value).startswith(f"{tmp_path}/us.txt.gz: {said}")


@pytest.mark.parametrize("how", ["cut", "changed"])
def test_damaged_archive_is_one_line(tmp_path, how):
    data = bytearray(gzip.compress(USHCN.encode()))
    (tmp_path / "us.txt.gz").write_bytes(data[:-20] if how == "cut" else data[:12] + b"\xff" * 20 + data[32:])
    with pytest.raises(DriftworkError, match=r"us\.txt\.gz: is damaged: .*delete it and fetch it again"):
        list(stations(tmp_path / "us.txt.gz", 1990, 2010))
