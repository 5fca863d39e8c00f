"""The Ray job on small corpora: every way of preparing gives the same bytes."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from driftwork.processes import ROOT
from pipeline.prepare.output import Output, check_recipe
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers import registry
from pipeline.shards.manifest import read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.verify import verify
from tests import hostile
from tests.datasets import quarantined
from tests.pipeline.prepare.preparing import CONFIG, OVERRIDES, config, contents, stamps
from tests.pipeline.readers.midi_bytes import corpus, song
from tests.pipeline.readers.readers import KilledOnce, Misbehaves, Waves


@pytest.fixture(scope="module")
def reference(raw, tmp_path_factory, local_ray):
    """Prepare a data set without interruption."""
    out = tmp_path_factory.mktemp("reference") / "out"
    prepare(config(raw, out, "workers=1"))
    return out


@pytest.mark.ray
def test_prepared_data_set_is_complete(raw, reference):
    manifest = read_manifest(reference)
    listed = {shard.file for shard in manifest.shards}
    assert set(contents(reference)) == listed | {"manifest.json", "DATACARD.md", "quarantine.jsonl"}
    assert verify(reference).samples == sum(shard.samples for shard in manifest.shards) == 20 * 3  # 15 s in 6 s pieces
    assert manifest.inputs == contents(raw)
    assert {shard.split for shard in manifest.shards} == {"train", "val", "test"}
    assert "nan" not in (reference / "manifest.json").read_text().lower()


@pytest.mark.ray
def test_statistics_use_the_train_split_alone(reference):
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
def test_songs_do_not_cross_splits(reference):
    manifest, seen = read_manifest(reference), {}
    for shard in manifest.shards:
        with (reference / shard.file).open("rb") as handle:
            for index in range(shard.samples):
                sample = read_sample(handle, shard, index, manifest.spec)
                assert seen.setdefault(sample.group, shard.split) == shard.split
    assert len(seen) == 20


@pytest.mark.ray
def test_workers_and_place_change_no_byte(raw, reference, tmp_path):
    moved = corpus(tmp_path / "elsewhere", 20)
    prepare(config(moved, tmp_path / "out", "workers=2"))
    assert contents(tmp_path / "out") == contents(reference)
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())


@pytest.mark.ray
def test_workers_do_not_change_duplicates(tmp_path, local_ray):
    raw = corpus(tmp_path / "raw", 20)
    for number in (1, 4, 7):
        (raw / f"Another {number}.mid").write_bytes(song(number))
    one = prepare(config(raw, tmp_path / "one", "workers=1"))
    assert len(one.joined) == 3
    prepare(config(raw, tmp_path / "two", "workers=2"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.ray
def test_second_run_writes_nothing(raw, reference, capsys, no_ray):
    before = stamps(reference)
    prepare(config(raw, reference))
    assert stamps(reference) == before
    assert "nothing written" in capsys.readouterr().out


@pytest.mark.ray
def test_data_card_contains_its_recipe(raw, reference, tmp_path):
    card = (reference / "DATACARD.md").read_text()
    (tmp_path / "recipe.yaml").write_text(card.split("```yaml\n")[1].split("```")[0])
    prepare(load(PrepareConfig, tmp_path / "recipe.yaml", [f"source={raw}", f"out={tmp_path / 'out'}"]))
    assert contents(tmp_path / "out") == contents(reference)


@pytest.mark.ray
@pytest.mark.slow
def test_killed_preparation_is_continued(raw, reference, tmp_path):
    """Finished shards are reused, and files in the working folder are not executed."""
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    settings = [*OVERRIDES, f"source={raw}", f"out={out}", "workers=1"]
    hostile.plant(home)  # neither Ray's workers nor the processes that read raw files may execute it
    command = [sys.executable, "-P", "-m", "launch.prepare", str(CONFIG), *settings]
    variables = {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(command, cwd=home, env=os.environ | variables, start_new_session=True)
    try:
        deadline = time.monotonic() + 600
        while not list(out.glob(".incomplete/*.json")):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        driver.kill()
        driver.wait()
    assert not (out / "manifest.json").exists()
    assert hostile.executed(home) == []
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob(".incomplete/*.tar")}
    prepare(config(raw, out, "workers=2"))
    assert contents(out) == contents(reference)
    kept = [name for name, stamp in finished.items() if (out / name).stat().st_mtime_ns == stamp]
    assert kept, "no finished shard was reused"


@pytest.mark.ray
def test_killed_worker_changes_nothing(reference, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.DATASETS.makers, "lakh", KilledOnce)
    raw = corpus(tmp_path / "raw", 20)
    prepare(config(raw, tmp_path / "out"))
    assert len(list((raw / "reads").iterdir())) > 20
    assert contents(tmp_path / "out") == contents(reference)


@pytest.mark.ray
@pytest.mark.slow
def test_crashing_file_is_quarantined(tmp_path, monkeypatch):
    """All other files are kept."""
    monkeypatch.setitem(registry.DATASETS.makers, "lakh", Misbehaves)
    raw = corpus(tmp_path / "raw", 20)
    (raw / "crash.mid").write_bytes(song(1))
    manifest = prepare(config(raw, tmp_path / "out", "files_per_shard=30"))
    assert quarantined(tmp_path / "out") == {"crash.mid": "the parser crashed (signal 11)"}
    assert (manifest.items, manifest.unreadable) == (21, 1)
    assert verify(tmp_path / "out").samples == 20 * 3


@pytest.mark.ray
def test_half_moved_shards_are_finished(raw, reference, tmp_path):
    """The state is that of a driver killed while it moved shards into place. The manifest is not moved yet."""
    prepare(config(raw, tmp_path / "out"))
    (tmp_path / "out" / ".incomplete").mkdir()
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / ".incomplete" / ".train-000000.tar.1234").write_bytes(b"half a shard")
    (tmp_path / "out" / "val-000099.tar").write_bytes(b"of an older plan")
    prepare(config(raw, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(reference)


def test_simultaneous_preparation_is_refused(raw, tmp_path, no_ray):
    ours = config(raw, tmp_path / "out")
    first = Output(tmp_path / "out", ours.recipe)
    with first.opened(), pytest.raises(DriftworkError, match="another prepare is at work there"):
        prepare(ours)


@pytest.mark.ray
def test_another_preparation_is_refused(raw, reference, tmp_path, no_ray):
    before = stamps(reference)
    with pytest.raises(DriftworkError, match=r"dataset.rate is 5.0 there and 10.0 in this call"):
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


def test_older_recipe_keeps_every_tail(raw, tmp_path):
    """A manifest from before `min_seconds` equals one with `min_seconds=0`."""
    there = config(raw, tmp_path).recipe.model_dump(mode="json")
    del there["dataset"]["min_seconds"]
    with pytest.raises(DriftworkError, match=r"dataset.min_seconds is 0.0 there and None in this call"):
        check_recipe(config(raw, tmp_path).recipe, there, tmp_path)
    check_recipe(config(raw, tmp_path, "dataset.min_seconds=0").recipe, there, tmp_path)


@pytest.mark.ray
def test_damaged_or_lost_shard_is_rebuilt(raw, reference, tmp_path, capsys):
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
def test_simulated_data_keep_their_own_splits(tmp_path, monkeypatch, local_ray):
    monkeypatch.setitem(registry.DATASETS.makers, "lakh", Waves)
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
