"""The manifest, and shards that no longer match it."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile

import pytest

from driftwork.errors import DriftworkError
from pipeline.shards.manifest import MANIFEST, Manifest, read_manifest
from pipeline.shards.shard_files import write_shard
from pipeline.shards.stats import Moments
from pipeline.shards.verify import verify
from tests.pipeline.noise import BINARY, sequences


@pytest.fixture
def prepared(tmp_path):
    """Write a data set of two shards."""
    shards = []
    for number, split in enumerate(("train", "val")):
        path = tmp_path / f"{split}-000000.tar"
        shards.append(write_shard(path, split, BINARY, sequences(BINARY, seed=number)))
    manifest = Manifest(
        schema_version=1, spec=BINARY, recipe={"dataset": {"name": "x"}}, stats=Moments.empty(13).stats(),
        items=12, unreadable=0, inputs={"a.mid": "0" * 64, "b.mid": None}, shards=tuple(shards),
    )  # fmt: skip
    (tmp_path / MANIFEST).write_bytes(manifest.encode())
    return tmp_path


def test_manifest_reads_back_with_its_hash(prepared):
    manifest = read_manifest(prepared)
    content = (prepared / MANIFEST).read_bytes()
    assert manifest.encode() == content
    assert manifest.hash == hashlib.sha256(content).hexdigest()
    assert [shard.file for shard in manifest.of("val")] == ["val-000000.tar"]


def test_file_in_the_place_of_a_data_set_is_refused(tmp_path):
    (tmp_path / "ward.csv").write_text("series,time,channel,value\n")
    with pytest.raises(DriftworkError, match=r"ward.csv: is a file, not a prepared data set; make one with"):
        read_manifest(tmp_path / "ward.csv")


def test_missing_or_foreign_manifest_is_refused(prepared):
    path = prepared / MANIFEST
    raw = json.loads(path.read_text())
    for content, reason in {
        "{": "is not JSON",
        "[]": "schema version None",
        json.dumps(raw | {"schema_version": 7}): "schema version 7",
        json.dumps(raw | {"shards": [raw["shards"][0] | {"samples": 99}]}): "contradicts itself",
        json.dumps(raw | {"shards": [raw["shards"][0] | {"file": "../../x.tar"}]}): "contradicts itself",
        json.dumps(raw | {"shards": [raw["shards"][0] | {"file": ".."}]}): "contradicts itself",
        json.dumps(raw | {"shards": [raw["shards"][0] | {"file": "9" * 300 + ".tar"}]}): "contradicts itself",
        json.dumps(raw | {"spec": raw["spec"] | {"dim": 14}}): "do not have 14 channels",
        json.dumps(raw | {"spec": raw["spec"] | {"length": 2}}): "contradicts itself",
        json.dumps(raw | {"spec": raw["spec"] | {"image": [3, 4]}}): "does not have 13 pixels",
        json.dumps(raw | {"line\nend": 1}): r"unknown key 'line\\nend'",
        "[" * 10**5: "is not JSON",
        json.dumps(raw | {"more": 1}): "unknown key 'more'",
        json.dumps({key: raw[key] for key in raw if key != "spec"}): "'spec' is missing",
    }.items():
        path.write_text(content)
        with pytest.raises(DriftworkError, match=reason) as caught:
            read_manifest(prepared)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DriftworkError, match="driftwork prepare"):
        read_manifest(prepared)


def test_verify_accepts_written_shards(prepared):
    assert verify(prepared)[:2] == (2, 12)


def flip(path, at=1000):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path, at):
    path.write_bytes(path.read_bytes()[:at])


def headers(path):
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


DAMAGE = {
    "a byte of a header flipped": (lambda path: flip(path, headers(path)[3] + 100), "sha256 differs"),
    "a byte of data flipped": (lambda path: flip(path, headers(path)[3] + 520), "sha256 differs"),
    "the last byte flipped": (lambda path: flip(path, -1), "sha256 differs"),
    "cut at a header": (lambda path: cut(path, headers(path)[8]), "bytes, "),  # WebDataset silently accepts these three
    "cut in a header": (lambda path: cut(path, headers(path)[8] + 100), "bytes, "),
    "cut at the end marker": (lambda path: cut(path, -512), "bytes, "),
    "cut in data": (lambda path: cut(path, headers(path)[8] + 600), "bytes, "),
    "empty": (lambda path: cut(path, 0), "0 bytes"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + bytes(512)), "bytes, "),
    "missing": (lambda path: path.unlink(), "missing"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "missing"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "missing"),
    "a link to nothing": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "missing"),
    "a device": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "missing"),
    "of another data set": (
        lambda path: write_shard(path, "train", BINARY, sequences(BINARY, seed=7)), "bytes, |sha256 differs"
    ),
    "extra": (
        lambda path: (path.parent / "extra.tar").write_bytes(path.read_bytes()), "extra.tar: not in the manifest"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_names_a_damaged_shard(prepared, damage):
    do, reason = DAMAGE[damage]
    do(prepared / "train-000000.tar")
    with pytest.raises(DriftworkError, match=reason) as caught:
        verify(prepared)
    assert str(caught.value).startswith(f"{prepared}/{'extra' if damage == 'extra' else 'train-000000'}.tar: ")
    assert "val-000000" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_swapped_shards_are_both_named(prepared):
    train, val = (prepared / f"{split}-000000.tar" for split in ("train", "val"))
    train.rename(prepared / "aside")
    val.rename(train)
    (prepared / "aside").rename(val)
    with pytest.raises(DriftworkError) as caught:
        verify(prepared)
    assert [line.split("/")[-1][:5] for line in str(caught.value).splitlines()] == ["train", "val-0"]


@pytest.mark.parametrize("alone", [10_000, 0], ids=["one process", "all cores"])
def test_verify_names_all_damaged_shards(prepared, monkeypatch, alone):
    monkeypatch.setattr("pipeline.shards.verify._ALONE", alone)
    flip(prepared / "train-000000.tar")
    (prepared / "val-000000.tar").unlink()
    with pytest.raises(DriftworkError) as caught:
        verify(prepared)
    lines = str(caught.value).splitlines()
    assert ["train-000000.tar" in lines[0], "val-000000.tar: missing" in lines[1]] == [True, True]
    assert len(lines) == 2


def test_verify_decodes_every_sample(prepared):
    """The manifest is that of another data set, with the hashes of these shards."""
    raw = json.loads((prepared / MANIFEST).read_text())
    raw["spec"]["dim"] = 99
    raw["stats"]["mean"] = raw["stats"]["scale"] = [0.0] * 99
    (prepared / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(DriftworkError, match="sample 0 is damaged or foreign"):
        verify(prepared)


@pytest.mark.process
def test_shards_need_no_torch(prepared):
    program = f"""
import sys
sys.modules["torch"] = sys.modules["ray"] = sys.modules["deepspeed"] = None
from pathlib import Path
from pipeline.shards.verify import verify
assert "webdataset" not in sys.modules
from tests.pipeline.noise import BINARY, sequences
from pipeline.shards.shard_files import write_shard
from pipeline.shards.manifest import read_manifest
folder = Path({str(prepared)!r})
verify(folder)
shard = write_shard(folder / "again.tar", "train", BINARY, sequences(BINARY, seed=0))
assert shard.sha256 == read_manifest(folder).shards[0].sha256
"""
    subprocess.run([sys.executable, "-c", program], check=True)
