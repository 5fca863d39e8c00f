"""The Ray job on small corpora: same bytes by any road, and one clear line for what cannot work."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from models.config_base import load
from models.errors import DriftworkError
from pipeline import sources
from pipeline.manifest import read_manifest
from pipeline.output import Output
from pipeline.prepare import PrepareConfig, prepare
from pipeline.shards import read_sample
from pipeline.verify import verify
from tests.pipeline.midi_bytes import corpus, song
from tests.pipeline.readers import KilledOnce, Misbehaves, Waves

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "prepare" / "lakh.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=4", "dataset.seconds=6"]


def config(source: Path | None, out: Path, *overrides: str) -> PrepareConfig:
    return load(PrepareConfig, CONFIG, [*OVERRIDES, f"source={source}", f"out={out}", *overrides])


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("raw"), 20)


@pytest.fixture(scope="module")
def reference(raw, tmp_path_factory, local_ray):
    """Prepared without any trouble."""
    out = tmp_path_factory.mktemp("reference") / "out"
    prepare(config(raw, out, "workers=1"))
    return out


@pytest.fixture
def no_ray(monkeypatch):
    """For mistakes that must be told before Ray is started."""
    monkeypatch.setattr("pipeline.prepare._run", lambda *_: pytest.fail("Ray was started"))


@pytest.mark.ray
def test_a_data_set_is_whole(raw, reference):
    manifest = read_manifest(reference)
    listed = {shard.file for shard in manifest.shards}
    assert set(contents(reference)) == listed | {"manifest.json", "DATACARD.md", "quarantine.jsonl"}
    assert verify(reference).samples == sum(shard.samples for shard in manifest.shards) == 20 * 3  # 15 s in 6 s pieces
    assert manifest.inputs == contents(raw)
    assert {shard.split for shard in manifest.shards} == {"train", "val", "test"}
    assert "nan" not in (reference / "manifest.json").read_text().lower()


@pytest.mark.ray
def test_statistics_see_the_train_split_alone(reference):
    manifest = read_manifest(reference)
    frames = []
    for shard in manifest.of("train"):
        with (reference / shard.file).open("rb") as handle:
            frames += [read_sample(handle, shard, index, manifest.spec).values for index in range(shard.samples)]
    values = np.concatenate(frames).astype(np.float64)
    assert manifest.stats.frames == len(values)
    np.testing.assert_allclose(manifest.stats.mean, values.mean(axis=0), atol=1e-14)
    deviation = values.std(axis=0)
    np.testing.assert_allclose(manifest.stats.scale, deviation, atol=1e-14)


@pytest.mark.ray
def test_songs_do_not_cross_the_splits(reference):
    manifest, seen = read_manifest(reference), {}
    for shard in manifest.shards:
        with (reference / shard.file).open("rb") as handle:
            for index in range(shard.samples):
                sample = read_sample(handle, shard, index, manifest.spec)
                assert seen.setdefault(sample.group, shard.split) == shard.split
    assert len(seen) == 20


@pytest.mark.ray
def test_two_workers_and_another_place_make_the_same_bytes(raw, reference, tmp_path):
    moved = corpus(tmp_path / "elsewhere", 20)
    prepare(config(moved, tmp_path / "out", "workers=2"))
    assert contents(tmp_path / "out") == contents(reference)
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


@pytest.mark.ray
def test_a_second_run_writes_nothing_and_starts_nothing(raw, reference, capsys, no_ray):
    before = stamps(reference)
    prepare(config(raw, reference))
    assert stamps(reference) == before
    assert "nothing written" in capsys.readouterr().out


@pytest.mark.ray
def test_the_data_card_holds_the_recipe_that_makes_the_same_again(raw, reference, tmp_path):
    card = (reference / "DATACARD.md").read_text()
    (tmp_path / "recipe.yaml").write_text(card.split("```yaml\n")[1].split("```")[0])
    prepare(load(PrepareConfig, tmp_path / "recipe.yaml", [f"source={raw}", f"out={tmp_path / 'out'}"]))
    assert contents(tmp_path / "out") == contents(reference)


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_killed_half_way_is_taken_up(raw, reference, tmp_path):
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    settings = [*OVERRIDES, f"source={raw}", f"out={out}", "workers=1"]
    command = [sys.executable, "-m", "launch.prepare", str(CONFIG), *settings]
    driver = subprocess.Popen(command, env=os.environ | {"HOME": str(home)}, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob(".incomplete/*.json")):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        driver.kill()
        driver.wait()
    assert not (out / "manifest.json").exists()
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob(".incomplete/*.tar")}
    prepare(config(raw, out, "workers=2"))
    assert contents(out) == contents(reference)
    kept = [name for name, stamp in finished.items() if (out / name).stat().st_mtime_ns == stamp]
    assert kept, "no finished shard was taken up"


@pytest.mark.ray
def test_a_worker_killed_half_way_changes_nothing(reference, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.READERS, "lakh", KilledOnce)
    raw = corpus(tmp_path / "raw", 20)
    prepare(config(raw, tmp_path / "out"))
    assert len(list((raw / "reads").iterdir())) > 20
    assert contents(tmp_path / "out") == contents(reference)


@pytest.mark.ray
@pytest.mark.slow
def test_a_file_that_crashes_the_reader_is_quarantined_and_the_rest_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.READERS, "lakh", Misbehaves)
    raw = corpus(tmp_path / "raw", 20)
    (raw / "crash.mid").write_bytes(song(1))
    manifest = prepare(config(raw, tmp_path / "out", "files_per_shard=30"))
    (entry,) = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert entry["file"] == "crash.mid"
    assert entry["reason"] == "the parser crashed (signal 11)"
    assert (manifest.items, manifest.unreadable) == (21, 1)
    assert verify(tmp_path / "out").samples == 20 * 3


@pytest.mark.ray
def test_what_lies_half_moved_is_finished(raw, reference, tmp_path):
    """As if killed while the driver moved shards in place: some are out, the manifest is not."""
    prepare(config(raw, tmp_path / "out"))
    (tmp_path / "out" / ".incomplete").mkdir()
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / ".incomplete" / ".train-000000.tar.1234").write_bytes(b"half a shard")
    (tmp_path / "out" / "val-000099.tar").write_bytes(b"of an older plan")
    prepare(config(raw, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(reference)


def test_two_at_once_do_not_mix(raw, tmp_path, no_ray):
    ours = config(raw, tmp_path / "out")
    first = Output(tmp_path / "out", ours.recipe)
    with first.opened(), pytest.raises(DriftworkError, match="another prepare is at work there"):
        prepare(ours)


@pytest.mark.ray
def test_unreadable_files_are_listed_with_their_reasons(tmp_path, local_ray):
    raw = corpus(tmp_path / "raw", 20)
    (raw / "not midi.mid").write_bytes(b"text")
    (raw / "cut.mid").write_bytes(song(1)[:60])
    (raw / "two\nlines.mid").write_bytes(b"text")
    (raw / os.fsdecode(b"Bj\xf6rk.mid")).write_bytes(song(99))  # Latin-1, as old archives have it
    manifest = prepare(config(raw, tmp_path / "out", "max_unreadable=0.125"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    reasons = {line["file"]: line["reason"] for line in lines}
    assert reasons.keys() == {"not midi.mid", "cut.mid", "two\\nlines.mid"}
    assert "Bj\\udcf6rk.mid" in manifest.inputs
    assert "not a MIDI file" in reasons["not midi.mid"]
    assert "truncated" in reasons["cut.mid"]
    assert (manifest.items, manifest.unreadable) == (24, 3)
    assert "24 raw items, of which 3 could not be read" in (tmp_path / "out" / "DATACARD.md").read_text()


@pytest.mark.ray
def test_too_many_unreadable_files_fail_and_leave_only_the_reasons(tmp_path, local_ray):
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
def test_a_folder_of_unreadable_files_fails_whatever_the_limit(tmp_path, local_ray):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mid").write_bytes(song(1)[:60])
    with pytest.raises(DriftworkError, match=r"1 of 1 files are unreadable, 100.0%, all of them \(a.mid: truncated"):
        prepare(config(tmp_path / "raw", tmp_path / "out", "max_unreadable=1"))
    assert not (tmp_path / "out").exists()


@pytest.mark.ray
def test_an_empty_split_is_told_now_and_not_in_training(tmp_path, local_ray):
    raw = corpus(tmp_path / "raw", 2)
    with pytest.raises(DriftworkError, match="leave the test split empty"):
        prepare(config(raw, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert prepare(config(raw, tmp_path / "out", "test=0")).of("val")


@pytest.mark.ray
def test_another_preparation_is_refused_and_not_touched(raw, reference, tmp_path, no_ray):
    before = stamps(reference)
    with pytest.raises(DriftworkError, match=r"dataset.rate is 5.0 there and 10.0 here"):
        prepare(config(raw, reference, "dataset.rate=10"))
    more = corpus(tmp_path / "more", 21)
    with pytest.raises(DriftworkError, match=r"1 new \(first: Artist 2/Title 20.mid\)"):
        prepare(config(more, reference))
    (more / "Artist 2" / "Title 20.mid").unlink()
    (more / "Artist 0" / "Title 0.mid").unlink()
    (more / "Artist 1" / "Title 1.mid").write_bytes(song(99))
    with pytest.raises(DriftworkError, match=r"1 gone \(first: .*\), 1 changed \(first: "):
        prepare(config(more, reference))
    assert stamps(reference) == before


@pytest.mark.ray
def test_a_damaged_or_lost_shard_is_made_anew(raw, reference, tmp_path, capsys):
    out = tmp_path / "out"
    prepare(config(raw, out))
    shards = sorted(out.glob("*.tar"))
    shards[0].unlink()
    content = bytearray(shards[1].read_bytes())
    content[700] ^= 1
    shards[1].write_bytes(content)
    untouched = stamps(out)[shards[2].name]
    prepare(config(raw, out))
    assert contents(out) == contents(reference)
    assert stamps(out)[shards[2].name] == untouched
    assert f"repaired {shards[0].name}, {shards[1].name}" in capsys.readouterr().out


@pytest.mark.ray
def test_simulated_real_valued_data_with_its_own_splits(tmp_path, monkeypatch, local_ray):
    monkeypatch.setitem(sources.READERS, "lakh", Waves)
    overrides = [*OVERRIDES, "test=0", "files_per_shard=2", f"out={tmp_path / 'out'}"]
    manifest = prepare(load(PrepareConfig, CONFIG, overrides))
    assert manifest.inputs == {}
    assert sum(shard.samples for shard in manifest.of("test")) == 3
    assert sum(shard.samples for shard in manifest.of("val")) >= 3
    assert verify(tmp_path / "out").samples == 12
    shard = manifest.of("train")[0]
    with (tmp_path / "out" / shard.file).open("rb") as handle:
        sample = read_sample(handle, shard, 0, manifest.spec)
    assert (sample.values.dtype, sample.values.shape) == (np.float32, (50, 2))
    assert 0 < sample.mask.sum() < 50
    assert prepare(load(PrepareConfig, CONFIG, overrides)).hash == manifest.hash


def test_mistakes_are_told_before_ray_starts(raw, tmp_path, no_ray):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for source, out, reason in [
        (tmp_path / "empty", tmp_path / "out", "no .mid or .midi file"),
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
        ("dataset.rte=5", "did you mean 'rate'"),
        ("dataset.name=lahk", "dataset.name=lahk"),
        ("files_per_shard=0", "files_per_shard=0"),
        ("max_unreadable=7", "max_unreadable=7"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(raw, tmp_path, override, reason):
    with pytest.raises(DriftworkError, match=reason) as caught:
        config(raw, tmp_path / "out", *override.split())
    assert "\n" not in str(caught.value)


def test_the_commands_end_in_one_line_and_code_2(tmp_path):
    commands = {"prepare": [str(CONFIG), f"source={tmp_path}", f"out={tmp_path / 'out'}"], "verify": [str(tmp_path)]}
    for module, arguments in commands.items():
        ended = subprocess.run([sys.executable, "-m", f"launch.{module}", *arguments], capture_output=True, text=True)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"driftwork {module}: ")
        assert len(ended.stderr.splitlines()) == 1
