"""Fixtures for tests of preparations."""

import pytest

from tests.pipeline.readers.midi_bytes import corpus


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("raw"), 20)


@pytest.fixture
def no_ray(monkeypatch):
    """Fail the test if Ray is started."""
    monkeypatch.setattr("pipeline.prepare.prepare._workers", lambda *_: pytest.fail("Ray was started"))
