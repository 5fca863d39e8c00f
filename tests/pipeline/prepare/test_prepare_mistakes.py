"""Mistakes in a preparation are reported in one clear line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import prepare
from pipeline.shards.manifest import read_manifest
from tests.datasets import quarantined
from tests.pipeline.prepare.preparing import CONFIG, config
from tests.pipeline.readers.midi_bytes import corpus, song


@pytest.mark.ray
def test_unreadable_files_are_listed_with_reasons(tmp_path, local_ray):
    raw = corpus(tmp_path / "raw", 20)
    (raw / "not midi.mid").write_bytes(b"text")
    (raw / "cut.mid").write_bytes(song(1)[:60])
    (raw / "two\nlines.mid").write_bytes(b"text")
    (raw / os.fsdecode(b"Bj\xf6rk.mid")).write_bytes(song(99))  # Latin-1, as in old archives
    manifest = prepare(config(raw, tmp_path / "out", "max_unreadable=0.125"))
    reasons = quarantined(tmp_path / "out")
    assert reasons.keys() == {"not midi.mid", "cut.mid", "two\\nlines.mid"}
    assert "Bj\\udcf6rk.mid" in manifest.inputs
    assert "not a MIDI file" in reasons["not midi.mid"]
    assert "truncated" in reasons["cut.mid"]
    assert (manifest.items, manifest.unreadable) == (24, 3)
    assert "24 raw items, of which 3 could not be read" in (tmp_path / "out" / "DATACARD.md").read_text()


@pytest.mark.ray
def test_too_many_unreadable_files_fail(tmp_path, local_ray):
    """Only the list of reasons is left."""
    raw, out = corpus(tmp_path / "raw", 20), tmp_path / "out"
    for number in range(3):
        (raw / f"bad {number}.mid").write_bytes(b"text")
    with pytest.raises(DriftworkError) as caught:
        prepare(config(raw, out))
    line = str(caught.value)
    assert "3 of 23 files are unreadable, 13.0%, more than max_unreadable=0.1" in line
    assert "bad 0.mid: not a MIDI file" in line
    assert "\n" not in line
    assert not out.exists()
    reasons = tmp_path / "out.quarantine.jsonl"
    assert str(reasons) in line
    assert len(reasons.read_text().splitlines()) == 3
    prepare(config(raw, out, "max_unreadable=0.2"))
    assert not reasons.exists()
    assert read_manifest(out).unreadable == 3


@pytest.mark.ray
def test_only_unreadable_files_always_fail(tmp_path, local_ray):
    """A preparation without readable files fails at any limit."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mid").write_bytes(song(1)[:60])
    with pytest.raises(DriftworkError, match=r"^a\.mid: truncated: .*; see .*quarantine\.jsonl$"):
        prepare(config(tmp_path / "raw", tmp_path / "out", "max_unreadable=1"))
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_empty_split_is_refused(tmp_path, local_ray):
    raw = corpus(tmp_path / "raw", 2)
    with pytest.raises(DriftworkError, match="leave the test split empty"):
        prepare(config(raw, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert prepare(config(raw, tmp_path / "out", "test=0")).of("val")


def test_mistakes_are_reported_before_ray_starts(raw, tmp_path, no_ray):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for source, out, reason in [
        (tmp_path / "empty", tmp_path / "out", r"no MIDI file \(.mid, .midi, .kar, .rmi\)"),
        (tmp_path / "absent", tmp_path / "out", "no such folder"),
        (raw, tmp_path / "file", "cannot be written"),
        (raw, tmp_path / "file" / "out", "cannot be written"),
        (raw, Path("/proc/out"), "cannot be written"),
        (raw, tmp_path / "full", "holds other files"),
    ]:
        with pytest.raises(DriftworkError, match=reason) as caught:
            prepare(config(source, out))
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("val=1.5", "val=1.5"),
        ("val=0.8 test=0.3", "leave nothing to train on"),
        ("workers=0", "workers=0"),
        ("datset.rate=5", "did you mean 'dataset'"),
        ("dataset.rte=5", "did you mean 'dataset.rate'"),
        ("dataset.name=lahk", "dataset.name=lahk"),
        ("files_per_shard=0", "files_per_shard=0"),
        ("max_unreadable=7", "max_unreadable=7"),
    ],
)
def test_wrong_setting_is_named_in_one_line(raw, tmp_path, override, reason):
    with pytest.raises(DriftworkError, match=reason) as caught:
        config(raw, tmp_path / "out", *override.split())
    assert "\n" not in str(caught.value)


@pytest.mark.process
def test_commands_fail_with_one_line(tmp_path):
    commands = {"prepare": [str(CONFIG), f"source={tmp_path}", f"out={tmp_path / 'out'}"], "verify": [str(tmp_path)]}
    for module, arguments in commands.items():
        ended = subprocess.run([sys.executable, "-m", f"launch.{module}", *arguments], capture_output=True, text=True)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"driftwork {module}: ")
        assert len(ended.stderr.splitlines()) == 1
