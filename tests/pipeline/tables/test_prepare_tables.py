"""`driftwork prepare` of tables: the same shards from every format, statistics by value, quarantine and repair."""

import json
import sqlite3
import stat

import numpy as np
import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from pipeline.prepare.gather import gather, read_files, scratch
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import find
from pipeline.shards.manifest import read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.verify import verify
from tests.datasets import quarantined
from tests.pipeline.prepare.preparing import contents, stamps
from tests.pipeline.tables.making import HEADER, InProcess, long, ward, write
from tests.places import ROOT

CONFIG = ROOT / "configs" / "prepare" / "table.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=3", "dataset.time_unit=h"]


def config(source, out, *overrides):
    return load(PrepareConfig, CONFIG, [*OVERRIDES, f"source={source}", f"out={out}", *overrides])


def samples(folder):
    """Return (split, sequence) of each sample."""
    manifest, found = read_manifest(folder), []
    for shard in manifest.shards:
        with (folder / shard.file).open("rb") as handle:
            found += [(shard.split, read_sample(handle, shard, i, manifest.spec)) for i in range(shard.samples)]
    return found


@pytest.fixture
def in_process(without_ray, monkeypatch):
    """Let `prepare` read the files in this process too: a child takes seconds to start."""
    monkeypatch.setattr("pipeline.prepare.gather.Guard", InProcess)


@pytest.fixture
def table(tmp_path):
    """Provide a long table in two files, with every second row in the second file."""
    rows = long(ward(2, patients=12))
    write(tmp_path / "raw" / "a.csv", rows[::2])
    write(tmp_path / "raw" / "b.csv", rows[1::2])
    return tmp_path / "raw"


@pytest.mark.ray
@pytest.mark.process
def test_every_format_gives_the_same_shards(tmp_path, table, local_ray):
    shards = [prepare(config(table, tmp_path / "split")).shards]
    for form in ("long.parquet", "long.csv.gz", "wide.csv", "wide.npz"):
        wide = form.startswith("wide")
        source = write(tmp_path / form, ward(2, patients=12) if wide else long(ward(2, patients=12)))
        shards.append(prepare(config(source, tmp_path / f"{form}-out", f"dataset.layout={form[:4]}")).shards)
    assert len(shards[0]) > 4
    assert all(other == shards[0] for other in shards)
    assert verify(tmp_path / "split").samples == 12


def test_statistics_are_of_the_observed_values(tmp_path, table, in_process):
    """The reference is in float64, in one pass: equal up to the rounding of some hundred additions."""
    manifest = prepare(config(table, tmp_path / "out"))
    train = [sequence for split, sequence in samples(tmp_path / "out") if split == "train"]
    assert {sequence.mask.shape[1:] for sequence in train} == {(2,)}
    for channel in range(2):
        seen = np.concatenate([s.values[s.mask[:, channel], channel] for s in train]).astype(np.float64)
        assert manifest.stats.observed[channel] == len(seen)
        bound = len(seen) * np.finfo(np.float64).eps
        assert manifest.stats.mean[channel] == pytest.approx(seen.mean(), rel=bound)
        condition = np.square(seen).mean() / seen.var()  # the digits that are lost if the mean is far from 0
        assert manifest.stats.scale[channel] == pytest.approx(seen.std(), rel=bound * condition)
    assert manifest.stats.frames == sum(len(sequence.times) for sequence in train)
    assert all((sequence.values[~sequence.mask] == 0).all() for sequence in train)
    assert all(sequence.mask.any(axis=1).all() for sequence in train)


def test_groups_splits_and_static_columns_are_kept(tmp_path, in_process):
    rows = [
        {"series": f"{ward_}{bed}", "time": hour, "channel": "x", "value": hour, "ward": ward_, "age": age, "sex": sex,
         "split": split}
        for ward_, split in (("north", "train"), ("south", "val"), ("east", "test"))
        for bed, age, sex in ((1, 60, "f"), (2, None, "m"), (3, 71.5, None))
        for hour in range(3)
    ]  # fmt: skip
    settings = ["dataset.group=ward", "dataset.split=split", "val=0", "test=0"]
    statics = ["dataset.static_numbers=[age]", "dataset.static_categories=[sex]"]
    units = ["dataset.channels=[x]", "dataset.units=[mmol/l]"]
    source = write(tmp_path / "a.csv", rows)
    manifest = prepare(config(source, tmp_path / "out", *settings, *statics, *units))
    table = manifest.spec.table
    assert [(static.column, static.categories) for static in table.static] == [("age", None), ("sex", ("f", "m"))]
    assert (table.channels, table.units, manifest.spec.units) == (("x",), ("mmol/l",), "mmol/l")
    found = {sequence.about["series"]: (split, sequence) for split, sequence in samples(tmp_path / "out")}
    assert {(sequence.group, split) for split, sequence in found.values()} == {
        ("north", "train"), ("south", "val"), ("east", "test"),
    }  # fmt: skip
    assert [found[f"east{bed}"][1].about["static"] for bed in (1, 2, 3)] == [[60, 1, 0], [None, 0, 1], [71.5, 0, 0]]
    assert manifest.stats.static_mean == pytest.approx((65.75, 1 / 3, 1 / 3), rel=1e-15)  # of the ward north alone
    assert manifest.stats.static_scale == pytest.approx((5.75, 2**0.5 / 3, 2**0.5 / 3), rel=1e-15)
    assert "x in mmol/l (9 values)" in (tmp_path / "out" / "DATACARD.md").read_text()


def test_bad_file_and_bad_series_are_quarantined(tmp_path, table, in_process):
    (table / "c.csv").write_text(f"{HEADER}p 0,1000,heat,1\np 0,1001,heat,?\n")
    (table / "d.csv").write_text(f"{HEADER}twice,1,heat,1\ntwice,1,heat,2\n")
    manifest = prepare(config(table, tmp_path / "out", "max_unreadable=0.25"))
    assert quarantined(tmp_path / "out") == {
        "c.csv": "row 2: column 'value' is not a number: '?'; add it to dataset.missing if it means a missing value",
        "twice": "channel 'heat' has two values at one time, in d.csv: row 1 and d.csv: row 2; keep one of them",
    }
    assert (manifest.items, manifest.unreadable) == (14, 2)
    assert manifest.inputs.keys() == {"a.csv", "b.csv", "c.csv", "d.csv"}


@pytest.mark.process
def test_too_many_bad_files_fail(tmp_path, table, without_ray):
    (table / "c.csv").write_text(f"{HEADER}p 0,1000,heat,?\n")
    with pytest.raises(DriftworkError) as caught:
        prepare(config(table, tmp_path / "out"))
    reasons = tmp_path / "out.quarantine.jsonl"
    assert str(caught.value) == (
        "1 of 3 files are unreadable, 33.3%, more than max_unreadable=0.1 "
        "(c.csv: row 1: column 'value' is not a number: '?'; add it to dataset.missing if it means a missing value); "
        f"see {reasons}"
    )
    assert json.loads(reasons.read_text())["file"] == "c.csv"
    assert not (tmp_path / "out").exists()


def test_contradiction_leaves_nothing(tmp_path, in_process):
    (tmp_path / "a.csv").write_text(f"{HEADER}s,0,x,\n")
    with pytest.raises(DriftworkError, match="channel 'x' has no value in any row"):
        prepare(config(tmp_path / "a.csv", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_prepared_table_is_checked_and_repaired(tmp_path, table, in_process, capsys):
    out = tmp_path / "out"
    manifest = prepare(config(table, out))
    before, times = contents(out), stamps(out)
    assert prepare(config(table, out)) == manifest
    assert (contents(out), stamps(out)) == (before, times)
    (out / manifest.shards[0].file).write_bytes(b"damaged")
    (out / manifest.shards[-1].file).unlink()
    prepare(config(table, out))
    assert contents(out) == before
    assert f"repaired train-000000.tar, {manifest.shards[-1].file}" in capsys.readouterr().out
    with (table / "a.csv").open("a") as handle:
        handle.write("p 0,1000,heat,1\n")
    with pytest.raises(DriftworkError, match=r"raw files 1 changed \(first: a.csv\)"):
        prepare(config(table, out))
    assert contents(out) == before


def killed(patched, *arguments):
    """End a preparation before its last step."""
    patched.setattr("pipeline.prepare.prepare.data_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(config(*arguments))


def test_killed_attempt_is_continued(tmp_path, table, in_process, monkeypatch):
    """Shards and gathered series of the killed attempt are used."""
    out = tmp_path / "out"
    wanted = prepare(config(table, tmp_path / "whole"))
    with monkeypatch.context() as patched:
        killed(patched, table, out)
    built = (out / ".incomplete" / "train-000000.tar").stat().st_ino
    monkeypatch.setattr("pipeline.prepare.prepare.read_files", lambda *_: pytest.fail("the table was read again"))
    assert prepare(config(table, out)) == wanted
    assert (out / "train-000000.tar").stat().st_ino == built
    assert contents(out) == contents(tmp_path / "whole")


def test_half_gathered_table_is_gathered_anew(tmp_path, table, in_process):
    gathering = tmp_path / "out" / ".incomplete" / "table"
    gathering.mkdir(parents=True)
    (gathering / "part-00000.rows").write_bytes(b"of the killed attempt")
    prepare(config(table, tmp_path / "out"))
    prepare(config(table, tmp_path / "whole"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_table_is_not_lost_if_ray_does_not_start(tmp_path, table, in_process, monkeypatch, capsys):
    """The series may have taken an hour to gather. The folder may be moved in between."""
    wanted = prepare(config(table, tmp_path / "whole"))
    with monkeypatch.context() as patched:

        def connected(*_):
            raise DriftworkError("address=local: Ray does not start; free memory")

        patched.setattr("pipeline.prepare.prepare._workers", connected)
        with pytest.raises(DriftworkError, match="Ray does not start"):
            prepare(config(table, tmp_path / "out"))
    out = (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.setattr("pipeline.prepare.prepare.read_files", lambda *_: pytest.fail("the table was read again"))
    assert prepare(config(table, out)) == wanted
    assert f"{out}: continues with the series that an earlier attempt gathered" in capsys.readouterr().out
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["file", "seconds_per_file=10"])
def test_changed_table_is_gathered_anew(tmp_path, table, in_process, monkeypatch, change):
    """Another limit may leave out other files."""
    with monkeypatch.context() as patched:
        killed(patched, table, tmp_path / "out")
    settings = [] if change == "file" else [change]
    if change == "file":
        with (table / "a.csv").open("a") as handle:
            handle.write("p 0,1000,heat,1\n")
    read = []
    monkeypatch.setattr(
        "pipeline.prepare.prepare.read_files", lambda *arguments: read.append(arguments) or read_files(*arguments)
    )
    prepare(config(table, tmp_path / "out", *settings))
    assert len(read) == 1
    prepare(config(table, tmp_path / "whole", *settings))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_store_and_cluster_need_a_shared_folder():
    with (
        pytest.raises(DriftworkError, match="address=auto: a table needs a folder that all machines share"),
        scratch(None, "auto"),
    ):
        pass


def test_source_without_tables_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DriftworkError, match=r"no file that ends in \.csv, \.csv\.gz, .*give another source"):
        prepare(config(tmp_path, tmp_path / "out"))


def test_scratch_of_this_machine_is_private(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch(None, "local") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_full_disk_under_the_index_is_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("pipeline.prepare.gather.survey", full)
    (tmp_path / "t.csv").write_text("series,time,channel,value\n")
    monkeypatch.setattr("pipeline.prepare.gather.merge", lambda *arguments: None)
    with pytest.raises(DriftworkError, match=f"^{tmp_path}: cannot be written: database or disk is full; free space"):
        gather(TableConfig(), find(tmp_path / "t.csv"), tmp_path, {}, [])
