"""A user without a home folder, as in a container whose user id has no passwd entry."""

import getpass
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from driftwork.command import home_provided
from driftwork.errors import DriftworkError
from launch.checks import machine
from pipeline.prepare import cluster
from tests.launch.checks.findings import level_of
from tests.places import ROOT

WITHOUT = ["unshare", "--user", "--map-user=12345", "env", "-i", f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT}"]
"""Command line of a process whose user id has no passwd entry, without HOME."""


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_missing_home_becomes_temporary(nobody, monkeypatch, home):
    if home:
        monkeypatch.setenv("HOME", home)
    with home_provided():
        folder = Path.home()
        assert folder.parent == nobody
        assert folder.is_dir()
        assert getpass.getuser() == str(os.getuid())
        assert level_of(machine.home()) == "warning"
        with home_provided():
            assert Path.home() == folder
    assert os.environ.get("HOME") == home
    assert not list(nobody.iterdir())


def test_existing_home_is_kept(home, monkeypatch):
    with home_provided():
        assert Path.home() == home
        assert machine.home().message == str(home)
        assert level_of(machine.home()) == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write with any mode
    with home_provided():
        assert Path.home() == home
        assert level_of(machine.home()) == "warning"


def test_ray_needs_no_writable_home(monkeypatch):
    def init(**options):
        raise RuntimeError(os.environ["RAY_AUTH_TOKEN"])

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DriftworkError, match=r"Ray does not start: [0-9a-f]{64};"), cluster.connected("local"):
        pass


@pytest.mark.process
def test_command_leaves_no_files(tmp_path):
    if subprocess.run([*WITHOUT, "true"], capture_output=True).returncode:
        pytest.skip("a user id without a passwd entry needs user namespaces")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [*WITHOUT, f"TMPDIR={temporary}", sys.executable, "-P", "-m", "launch.cli", "doctor", "tracking.uri=null"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert "warning  home         HOME is not a folder and user 12345 has no home folder" in done.stdout
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
