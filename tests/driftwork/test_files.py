"""Replacing a folder by a filled one: the old folder is replaced as a whole or unchanged."""

import os

import pytest

from driftwork.files import replaced_folder


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def old(tmp_path):
    (tmp_path / "it").mkdir()
    (tmp_path / "it/a").write_text("old")
    return tmp_path / "it"


def test_filled_folder_replaces_the_old(old, tmp_path):
    for path in (old, tmp_path / "other"):
        with replaced_folder(path) as folder:
            (folder / "b").write_text("new")
        assert content(path) == {"b": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "other"]


def test_exception_while_filling_keeps_old_folder(old, tmp_path):
    with pytest.raises(FileNotFoundError), replaced_folder(old) as folder:
        (folder / "nowhere/b").write_text("new")
    assert content(old) == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_failed_exchange_restores_old_folder(old, tmp_path, monkeypatch):
    rename = os.rename

    def refused(source, target):
        if target == old and ".new." in source.name:
            raise OSError("not now")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(OSError, match="not now"), replaced_folder(old) as folder:
        (folder / "b").write_text("new")
    assert content(old) == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
