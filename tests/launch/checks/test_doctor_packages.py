"""Checks of versions, and of the environment of the commands."""

import sys
from pathlib import Path

from launch.checks import packages
from tests.launch.checks.findings import level_of, program


def test_wrong_versions_are_named(monkeypatch):
    assert level_of(packages.python()) == "ok"
    assert level_of(packages.python((3, 13, 0))) == "error"
    assert level_of(packages.python((3, 10, 9))) == "error"
    assert [level_of(finding) for finding in packages.packages()] == ["ok"]
    true = packages.metadata.version
    monkeypatch.setattr(packages.metadata, "version", lambda name: "2.10.0+cpu" if name == "torch" else true(name))
    *bad, rest = packages.packages()
    assert [str(finding) for finding in bad] == [
        "error    packages     torch 2.10.0+cpu; driftwork requires >=2.11,<2.14; "
        "pip install -c constraints.txt 'torch>=2.11,<2.14'"
    ]
    assert level_of(rest) == "ok"


def test_python_of_another_environment_is_named(home, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert level_of(packages.entry_point()) == "ok"
    program(home / "bin", "python")
    monkeypatch.setenv("PATH", f"{home}/bin:{Path(sys.executable).parent}")
    assert f"`python` in PATH is {home}/bin/python" in packages.entry_point().message
    monkeypatch.setenv("PATH", str(home / "empty"))
    assert "has no `python`" in packages.entry_point().message
    assert level_of(packages.entry_point()) == "warning"
