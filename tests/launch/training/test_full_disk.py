"""A full disk, simulated by /dev/full: every command prints one line before anything starts."""

import errno
import io
import json
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from driftwork import files
from driftwork.command import run
from driftwork.errors import DriftworkError
from launch import sweep
from launch.checks import store
from launch.reports import tracked_runs
from tests.datasets import write_rolls
from tests.places import tiny

FULL = "No space left on device"


@pytest.fixture
def full(monkeypatch):
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda dir: io.FileIO("/dev/full", "w"))


def test_refused_sweep_writes_nothing(full, tmp_path, monkeypatch):
    write_rolls(tmp_path / "rolls")
    monkeypatch.chdir(tmp_path)
    base = tiny("vsdn_vae")
    settings = {"base": str(base), "set": {"data": "rolls", "tracking.uri": None}, "grid": {"train.beta": [2, 3]}}
    Path("some.yaml").write_text(json.dumps(settings))
    with pytest.raises(DriftworkError, match=rf"^out=runs/some: cannot be written: {FULL}; free space"):
        sweep.main(["some.yaml"])
    assert [path.name for path in Path("runs/some").iterdir()] == ["sweep.lock"]


def test_no_store_is_made(full, tmp_path):
    with pytest.raises(DriftworkError, match=rf"mlflow\.db cannot be created: .*: {FULL}; ") as caught:
        store.require(f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_artifact_without_space_is_not_missing(full, tmp_path, monkeypatch):
    def connect(uri):
        raise MlflowException("Failed to download artifacts, please ensure that the path is correct.")

    monkeypatch.setattr(tracked_runs, "connect", connect)
    with pytest.raises(OSError, match=FULL):
        tracked_runs.fetch(f"sqlite:///{tmp_path}/mlflow.db", "it", ("config.yaml",), tmp_path / "it")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, FULL, "runs/a/run.json"), f"driftwork train: runs/a/run.json: {FULL}; "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "driftwork train: Disk quota exceeded; "),
    ],
)
def test_full_disk_is_one_line(error, said, capsys):
    def main(argv):
        raise error

    assert run("train", main, []) == 2
    assert capsys.readouterr().err == f"{said}existing files are intact\n"


def test_other_system_errors_are_raised():
    def main(argv):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        run("train", main, [])
