"""Data sets in a store are copied to this machine once."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from driftwork.errors import DriftworkError
from pipeline.shards.cache import find_manifest, local
from pipeline.shards.manifest import MANIFEST, read_manifest
from tests.datasets import write_rolls
from tests.pipeline.shards.in_store import URL, files
from tests.places import ROOT
from tests.standins.object_store import BUCKET

pytestmark = pytest.mark.network


def copy(where, cache, thorough=True):
    return local(where, cache, find_manifest(where, cache), thorough=thorough)


def test_copy_is_made_once_and_repaired(store, rolls, tmp_path):
    """Only damaged shards are copied again."""
    store.copy(rolls, "lakh")
    folder = copy(URL, tmp_path / "cache")
    assert folder == tmp_path / "cache" / read_manifest(rolls).hash
    assert files(folder) == files(rolls)
    assert sorted(store.fetched(".tar")) == sorted(f"lakh/{path.name}" for path in rolls.glob("*.tar"))

    store.asked.clear()
    assert copy(URL, tmp_path / "cache") == copy(URL, tmp_path / "cache", thorough=False) == folder
    assert not store.fetched(".tar")
    store.asked.clear()
    assert find_manifest(URL, tmp_path / "cache", known=folder.name).hash == folder.name
    assert not store.asked

    shard = folder / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (folder / "val-000003.tar").unlink()
    (folder / ".train-000000.tar.5e1f").write_bytes(b"of a process that was killed")
    copy(URL, tmp_path / "cache")
    assert sorted(store.fetched(".tar")) == ["lakh/train-000001.tar", "lakh/val-000003.tar"]
    assert files(folder) == files(rolls)


def test_folder_is_copied_only_with_cache(rolls, tmp_path, monkeypatch):
    assert copy(rolls, None) == rolls
    folder = copy(rolls, tmp_path / "cache")
    assert folder.parent == tmp_path / "cache"
    assert files(folder) == files(rolls)


def test_cache_has_the_usual_place(store, rolls, tmp_path, monkeypatch):
    store.copy(rolls, "lakh")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert copy(URL, None).parent == tmp_path / "xdg/driftwork"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert copy(URL, None).parent == tmp_path / "home/.cache/driftwork"


def test_store_that_differs_from_manifest_is_reported(store, rolls, tmp_path):
    store.copy(rolls, "lakh")
    cache, shard = tmp_path / "cache", (rolls / "train-000001.tar").read_bytes()
    store.put("lakh/train-000001.tar", shard[:1000])
    with pytest.raises(DriftworkError, match=rf"{URL}/train-000001.tar: 1000 bytes, {len(shard)} in the manifest; rep"):
        copy(URL, cache)
    assert (
        store.fetched("train-000001.tar") == ["lakh/train-000001.tar"] * 2
    )  # once more, in case the transfer damaged it
    store.put("lakh/train-000001.tar", bytes(len(shard)))
    with pytest.raises(DriftworkError, match=r"train-000001.tar: its bytes are not those that were written; "):
        copy(URL, cache)
    store.client.delete_object(Bucket=BUCKET, Key="lakh/train-000001.tar")
    with pytest.raises(DriftworkError, match=r"train-000001.tar: the specified key does not exist; repair it by"):
        copy(URL, cache)
    (folder,) = cache.glob("*/")
    assert not (folder / MANIFEST).exists()
    assert not list(folder.glob(".*"))

    before = find_manifest(URL, cache)
    write_rolls(tmp_path / "other", seed=1)
    store.copy(tmp_path / "other", "lakh")
    with pytest.raises(DriftworkError, match=rf"{URL}: was replaced while it was copied \(manifest {before.hash[:12]}"):
        local(URL, tmp_path / "new", before, thorough=True)

    store.put(f"lakh/{MANIFEST}", (rolls / MANIFEST).read_bytes()[:1000])
    with pytest.raises(DriftworkError, match=rf"{URL}/{MANIFEST}: is not JSON; prepare the data set again"):
        copy(URL, cache)


def test_full_disk_is_reported_before_copying(store, rolls, tmp_path, monkeypatch):
    store.copy(rolls, "lakh")
    need = sum(shard.bytes for shard in read_manifest(rolls).shards)
    usage = shutil.disk_usage(tmp_path)
    for free, fits in ((need + 2**26 - 1, False), (need + 2**26, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        if fits:
            copy(URL, tmp_path / "cache")
        else:
            with pytest.raises(DriftworkError, match=rf"cache_dir={tmp_path}/cache: 0.07 GB free, but {URL} needs"):
                copy(URL, tmp_path / "cache")
            assert not store.fetched(".tar")
    (tmp_path / "file").touch()
    with pytest.raises(DriftworkError, match=f"cache_dir={tmp_path}/file/cache: cannot be written"):
        copy(URL, tmp_path / "file/cache")


def test_copy_continues_after_lost_server(store, rolls, tmp_path):
    """Only shards that were not yet copied are requested again."""
    store.copy(rolls, "lakh")
    store.stop_after(2)
    with pytest.raises(DriftworkError, match=rf"{URL}/[a-z0-9-]+.tar: .*; given up after 4 attempts"):
        copy(URL, tmp_path / "cache")
    here = {path.name for path in tmp_path.glob("cache/*/*.tar")}
    assert len(here) <= 2  # a response in transfer may be lost too
    store.before = lambda method, key: None
    store.start()
    store.asked.clear()
    folder = copy(URL, tmp_path / "cache")
    assert {Path(key).name for key in store.fetched(".tar")} == files(rolls).keys() - {MANIFEST} - here
    assert files(folder) == files(rolls)


def test_second_process_waits_for_the_copy(store, rolls, tmp_path):
    store.copy(rolls, "lakh")
    store.before = lambda method, key: time.sleep(3) if key.endswith(".tar") else None
    code = (
        "import sys; from pathlib import Path; from pipeline.shards.cache import find_manifest, local; "
        "print(local(sys.argv[1], Path(sys.argv[2]), find_manifest(sys.argv[1], None), thorough=True))"
    )
    command = [sys.executable, "-c", code, URL, tmp_path / "cache"]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(store.fetched(".tar")) == 5
    assert sum("another process that copies" in errors for _, errors in said) <= 1
    assert files(Path(said[0][0].strip())) == files(rolls)
