"""Data sets in object storage: prepared into, and copied once from, an S3 server on loopback."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import s3fs

from driftwork.config_base import Config, build
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import prepare
from pipeline.shards import storage
from pipeline.shards.cache import find_manifest, local
from pipeline.shards.manifest import MANIFEST, read_manifest
from pipeline.shards.storage import Place, Store
from pipeline.shards.verify import verify
from tests.datasets import write_rolls
from tests.pipeline.prepare.preparing import CONFIG, OVERRIDES, config
from tests.pipeline.readers.midi_bytes import corpus
from tests.places import ROOT
from tests.standins.object_store import BUCKET, object_store

pytestmark = pytest.mark.network

URL = f"s3://{BUCKET}/lakh"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as running:
        yield running


@pytest.fixture
def store(server, monkeypatch):
    """Provide an empty store without faults; clients do not wait before they try again."""
    monkeypatch.setattr(storage, "_WAIT_S", 0.01)
    server.before = lambda method, key: None
    for key in server.objects():
        server.client.delete_object(Bucket=BUCKET, Key=key)
    server.asked.clear()
    return server


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("raw"), 12)


@pytest.fixture(scope="module")
def rolls(tmp_path_factory):
    """Prepare a folder of five shards."""
    folder = tmp_path_factory.mktemp("rolls") / "lakh"
    write_rolls(folder)
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def writes(store):
    return [key.removeprefix("lakh/") for method, key in store.asked if method == "PUT"]


def copy(where, cache, thorough=True):
    return local(where, cache, find_manifest(where, cache), thorough=thorough)


@pytest.mark.usefixtures("without_ray")
def test_broken_preparation_is_continued(store, raw, tmp_path, capsys):
    """It ends in the same bytes as in a folder."""
    ours = prepare(config(raw, tmp_path / "out"))

    def breaks_off(method, key):
        if method == "PUT" and key.endswith(MANIFEST):
            raise ConnectionError

    store.before = breaks_off
    with pytest.raises(DriftworkError, match=rf"{URL}/{MANIFEST}: .*; given up after 4 attempts"):
        prepare(config(raw, URL))
    with pytest.raises(DriftworkError, match=rf"{URL}: no {MANIFEST} \(the specified key does not exist\)"):
        read_manifest(URL)
    assert writes(store)[0] == ".incomplete/recipe.json"
    with pytest.raises(DriftworkError, match=r"holds another preparation \(dataset.rate is 5.0 there and 10.0 here\)"):
        prepare(config(raw, URL, "dataset.rate=10"))
    store.before = lambda method, key: None
    store.asked.clear()
    assert prepare(config(raw, URL)).hash == ours.hash
    assert writes(store) == ["quarantine.jsonl", "DATACARD.md", MANIFEST]
    assert store.objects("lakh") == files(tmp_path / "out")
    assert verify(URL) == verify(tmp_path / "out")

    store.asked.clear()
    assert prepare(config(raw, URL)).hash == ours.hash
    assert writes(store) == []
    assert f"{URL}: already prepared from these files; nothing written" in capsys.readouterr().out
    with pytest.raises(DriftworkError, match=r"dataset.rate is 5.0 there and 10.0 here"):
        prepare(config(raw, URL, "dataset.rate=10"))

    store.put("lakh/deeper/of-another.tar", b"")  # neither repaired nor removed
    lost, damaged = (shard.file for shard in ours.shards[:2])
    store.client.delete_object(Bucket=BUCKET, Key=f"lakh/{lost}")
    store.put(f"lakh/{damaged}", bytes(ours.shards[1].bytes))
    with pytest.raises(DriftworkError) as caught:
        verify(URL)
    said = [f"{URL}/{lost}: missing", f"{URL}/{damaged}: its bytes are not those that were written (sha256 differs)"]
    assert str(caught.value).splitlines() == sorted(said)
    store.asked.clear()
    prepare(config(raw, URL))
    assert {name for name in writes(store) if name.endswith(".tar")} == {lost, damaged}
    assert store.objects("lakh") == {**files(tmp_path / "out"), "deeper/of-another.tar": b""}


@pytest.mark.usefixtures("without_ray")
def test_failed_preparation_leaves_only_reasons(store, tmp_path):
    """They are written beside the data set's URL."""
    raw = corpus(tmp_path / "raw", 10)
    for number in range(3):
        (raw / f"bad {number}.mid").write_bytes(b"text")
    with pytest.raises(DriftworkError, match=rf"3 of 13 files are unreadable.*; see {URL}.quarantine.jsonl"):
        prepare(config(raw, URL))
    assert list(store.objects()) == ["lakh.quarantine.jsonl"]
    assert len(store.read("lakh.quarantine.jsonl").splitlines()) == 3
    store.put("lakh/thesis.tex", b"")
    with pytest.raises(DriftworkError, match="holds other files; give a new or an empty folder"):
        prepare(config(raw, URL, "max_unreadable=0.3"))
    store.client.delete_object(Bucket=BUCKET, Key="lakh/thesis.tex")
    assert prepare(config(raw, URL, "max_unreadable=0.3")).unreadable == 3
    assert not any(name.endswith("jsonl") and "/" not in name for name in store.objects())
    with pytest.raises(DriftworkError, match=r"s3://none/lakh/.incomplete/recipe.json: the specified bucket does not"):
        prepare(config(raw, "s3://none/lakh"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("without_ray")
def test_ray_workers_upload_their_shards(store, raw, tmp_path):
    prepare(config(raw, tmp_path / "out"))
    command = [sys.executable, "-m", "launch.prepare", CONFIG, *OVERRIDES, f"source={raw}", f"out={URL}", "workers=2"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    assert store.objects("lakh") == files(tmp_path / "out")


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
    with pytest.raises(DriftworkError, match=rf"{URL}/train-000001.tar: 1000 bytes, {len(shard)} in the manifest; `dr"):
        copy(URL, cache)
    assert (
        store.fetched("train-000001.tar") == ["lakh/train-000001.tar"] * 2
    )  # once more, in case the transfer damaged it
    store.put("lakh/train-000001.tar", bytes(len(shard)))
    with pytest.raises(DriftworkError, match=r"train-000001.tar: its bytes are not those that were written; "):
        copy(URL, cache)
    store.client.delete_object(Bucket=BUCKET, Key="lakh/train-000001.tar")
    with pytest.raises(DriftworkError, match=r"train-000001.tar: the specified key does not exist; `driftwork prep"):
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


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("x3://bucket/lakh", {}, "x3://bucket/lakh: protocol not known: x3"),
        ("gs://bucket/lakh", {}, "gs://bucket/lakh: support for gs is not installed: pip install gcsfs"),
        ("s3://none/lakh", {}, r"s3://none/lakh: no manifest.json \(the specified bucket does not exist\)"),
        (URL, {"AWS_ACCESS_KEY_ID": None}, f"{URL}/manifest.json: .*credentials"),
        (URL, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, f"{URL}/manifest.json: could not connect to the endpoint"),
        ("http://127.0.0.1:9/lakh", {}, "http://127.0.0.1:9/lakh/manifest.json: .*; given up after 4 attempts"),
    ],
)
def test_unreachable_store_is_named(store, monkeypatch, url, environment, said):
    for name, value in environment.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # it caches settings from the environment
    try:
        with pytest.raises(DriftworkError, match=said) as caught:
            read_manifest(url)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert "\n" not in str(caught.value)


def test_missing_s3_support_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(DriftworkError, match=r"support for s3 is not installed: pip install -e '.\[s3\]'"):
        Store(URL).names()


class Given(Config):
    data: Place


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("data_shards/lakh", Path("data_shards/lakh")),
        ("file:///data/lakh", Path("/data/lakh")),
        ("s3://bucket/a/lakh/", "s3://bucket/a/lakh"),
        (Path("/data"), Path("/data")),
    ],
)
def test_place_is_a_folder_or_url(given, place):
    config = Given(data=given)
    assert config.data == place
    assert build(Given, config.model_dump(mode="json"), where="again") == config


@pytest.mark.parametrize(("given", "said"), [("s3://bucket", "names no folder of a store"), (5, "is neither a folder")])
def test_invalid_place_is_refused(given, said):
    with pytest.raises(DriftworkError, match=f"data={given}: {said}"):
        build(Given, {"data": given}, where="test")
