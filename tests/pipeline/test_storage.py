"""Data sets in object storage: prepared into it, copied from it once a machine, on a server that speaks S3."""

import pytest

from models.errors import DriftworkError
from pipeline.manifest import read_manifest
from pipeline.prepare import prepare
from tests.object_store import object_store
from tests.pipeline.midi_bytes import corpus
from tests.pipeline.test_prepare import config, contents

URL = "s3://bucket/lakh"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as running:
        yield running


@pytest.fixture
def store(server):
    """Empty, and well-behaved."""
    for key in server.objects(""):
        server.client.delete_object(Bucket="bucket", Key=key)
    server.asked.clear()
    return server


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("raw"), 12)


@pytest.mark.usefixtures("without_ray")
def test_a_preparation_ends_in_the_bytes_that_a_folder_has(store, raw, tmp_path, capsys):
    ours = prepare(config(raw, tmp_path / "out"))
    assert prepare(config(raw, URL)).hash == ours.hash
    there = store.objects("lakh")
    assert there == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    writes = [key for method, key in store.asked if method == "PUT"]
    assert writes[0] == "lakh/.incomplete/recipe.json"
    assert writes[-1] == "lakh/manifest.json"
