"""The import path of a process that a command starts."""

import os

from driftwork.processes import ROOT, search_path


def test_named_folders_follow_the_code_as_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "plugins", "/elsewhere", "."]))
    folders = search_path()["PYTHONPATH"].split(os.pathsep)
    assert folders == [str(ROOT), str(tmp_path / "plugins"), "/elsewhere", str(tmp_path)]
