"""Temporary folders as deep as a socket's path allows, and one byte deeper, checked against the system itself."""

import socket
import tempfile
from pathlib import Path

import pytest

from driftwork import sockets
from driftwork.errors import DriftworkError
from launch.checks import machine
from pipeline.observe import ObservationConfig
from pipeline.reading.stream import Stream
from tests.datasets import write_rolls
from tests.launch.checks.findings import level_of


def takes(path):
    """Return whether the system binds a socket to the path."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(path))
        except OSError:
            return False
        return True


@pytest.fixture
def deep(monkeypatch):
    """Return a function that sets a temporary folder whose path has a given number of bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as base:

        def set_to(length):
            folder = f"{base}/".ljust(length, "x")
            Path(folder).mkdir(parents=True, exist_ok=True)
            monkeypatch.setenv("TMPDIR", folder)
            monkeypatch.delenv("RAY_TMPDIR", raising=False)
            monkeypatch.setattr(tempfile, "tempdir", None)
            return folder

        yield set_to


@pytest.mark.parametrize(
    ("find", "path"),
    [(sockets.problem_of_ray, sockets._RAY), (sockets.problem_of_loaders, sockets._LISTENER)],
    ids=["ray", "loaders"],  # the paths contain the process id, and all test processes need the same ids
)
def test_limit_matches_the_system(deep, find, path):
    longest = sockets._MOST - len(path)
    for length in (longest, longest + 1):
        folder = deep(length)
        assert takes(Path(folder + path)) is (find() is None) is (length == longest)


def test_deep_folder_is_refused_with_cure(deep, tmp_path):
    manifest, _ = write_rolls(tmp_path / "rolls")
    observation = ObservationConfig(pattern="random", ratios=(0.25,))
    deep(100)
    with pytest.raises(DriftworkError, match=r"^loader_workers=1: .* 132 bytes.* export TMPDIR=/tmp$"):
        Stream(tmp_path, manifest, "train", observation, batch_size=2, seed=0, shuffle=True, workers=1)
    Stream(tmp_path, manifest, "train", observation, batch_size=2, seed=0, shuffle=True)
    found = list(machine.sockets())
    assert [level_of(finding) for finding in found] == ["error", "warning"]
    assert [finding.cure.split()[-1] for finding in found] == ["RAY_TMPDIR=/tmp", "TMPDIR=/tmp"]


def test_ray_is_not_started_in_a_deep_folder(deep, monkeypatch):
    from pipeline.prepare import cluster

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    folder = deep(100)
    with (
        pytest.raises(DriftworkError, match=r"^address=local: .* export RAY_TMPDIR=/tmp$") as caught,
        cluster.connected("local"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not list(Path(folder).iterdir())
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert sockets.problem_of_ray() is None
