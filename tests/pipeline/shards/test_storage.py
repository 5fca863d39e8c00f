"""Data sets in object storage: prepared into, and copied once from, an S3 server on loopback."""

import subprocess
import sys
from pathlib import Path

import pytest
import s3fs

from driftwork.config_base import Config, build
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import prepare
from pipeline.shards.manifest import MANIFEST, read_manifest
from pipeline.shards.storage import Place, Store
from pipeline.shards.verify import verify
from tests.pipeline.prepare.preparing import CONFIG, OVERRIDES, config
from tests.pipeline.readers.midi_bytes import corpus
from tests.pipeline.shards.in_store import URL, files
from tests.places import ROOT
from tests.standins.object_store import BUCKET

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("raw"), 12)


def writes(store):
    return [key.removeprefix("lakh/") for method, key in store.asked if method == "PUT"]


@pytest.mark.usefixtures("without_ray")
def test_broken_preparation_is_continued(store, raw, tmp_path, capsys):
    """The preparation ends in the same bytes as one into a folder."""
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
    with pytest.raises(
        DriftworkError, match=r"holds another preparation \(dataset.rate is 5.0 there and 10.0 in this call\)"
    ):
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
    with pytest.raises(DriftworkError, match=r"dataset.rate is 5.0 there and 10.0 in this call"):
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
    """The reasons are written beside the data set's URL."""
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


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("x3://bucket/lakh", {}, "x3://bucket/lakh: protocol not known: x3"),
        ("gs://bucket/lakh", {}, "gs://bucket/lakh: support for gs is not installed; run pip install gcsfs"),
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
    with pytest.raises(DriftworkError, match=r"support for s3 is not installed; run pip install -e '.\[s3\]'"):
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
