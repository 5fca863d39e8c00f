import sys

import pytest

from driftwork.errors import DriftworkError
from pipeline.fetch.chorales import write_chorales
from pipeline.readers.midi import Midi, MidiConfig


def test_chorales_are_written_once_as_music(tmp_path, monkeypatch):
    chorales = pytest.importorskip("music21.corpus.chorales", reason="music21 is not installed (the demo extra)")
    names = ["bach/bwv227.1", "bach/bwv227.3", "bach/bwv269", "bach/bwv277"]  # the last has broken repeat signs
    monkeypatch.setattr(chorales, "Iterator", lambda **_: iter(names))
    folder = tmp_path / "chorales"
    assert write_chorales(folder) == 3
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.txt",
        "bwv227.1.mid",
        "bwv227.3.mid",
        "bwv269.mid",
    ]
    lakh = Midi(MidiConfig())
    items = lakh.find(folder)
    assert [item.group for item in items] == ["bwv227", "bwv227", "bwv269"]
    for item in items:
        (sequence,) = lakh.read(folder, item)
        assert 3 < sequence.values.sum(axis=1).mean() <= 5  # four voices, in bwv227.3 five
    monkeypatch.setitem(sys.modules, "music21", None)  # a second call does not need music21
    assert write_chorales(folder) == 3


def test_missing_music21_names_the_extra(tmp_path, monkeypatch):
    for name in ("music21", "music21.corpus"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DriftworkError, match=r"\[demo\]"):
        write_chorales(tmp_path)
    assert not list(tmp_path.iterdir())
