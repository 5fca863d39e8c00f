"""A folder that takes the place of another, or leaves it."""

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


def test_it_takes_the_place_of_one_that_is_there_and_of_none(old, tmp_path):
    for path in (old, tmp_path / "other"):
        with replaced_folder(path) as folder:
            (folder / "b").write_text("new")
        assert content(path) == {"b": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "other"]


def test_an_exception_while_it_is_filled_leaves_the_old_one(old, tmp_path):
    with pytest.raises(FileNotFoundError), replaced_folder(old) as folder:
        (folder / "nowhere/b").write_text("new")
    assert content(old) == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_an_exchange_that_breaks_off_half_way_puts_the_old_one_back(old, tmp_path, monkeypatch):
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
