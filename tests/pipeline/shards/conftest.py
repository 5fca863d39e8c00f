"""An object store on this machine, and a prepared data set."""

import pytest

from pipeline.shards import storage
from tests.datasets import write_rolls
from tests.standins.object_store import BUCKET, object_store


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
def rolls(tmp_path_factory):
    """Prepare a folder of five shards."""
    folder = tmp_path_factory.mktemp("rolls") / "lakh"
    write_rolls(folder)
    return folder
