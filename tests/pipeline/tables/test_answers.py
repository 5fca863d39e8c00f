"""Answers come back by file and row, whatever the order in which they are stored."""

import numpy as np
import pytest

from pipeline.readers.tables import answers
from pipeline.readers.tables.answers import Answers
from pipeline.readers.tables.questions import CELL


@pytest.mark.parametrize("cells", [4, 2**18])
def test_answers_of_rows_come_back_sorted(tmp_path, monkeypatch, cells):
    """With 4 cells a block has two rows, and waiting answers are written after every second series."""
    monkeypatch.setattr(answers, "_CELLS", cells)
    random, kept = np.random.default_rng(0), Answers(tmp_path, dim=2, width=1)
    places = [(file, row, channel) for file in range(2) for row in range(1, 12) for channel in range(2)]
    for series in np.array_split(random.permutation(places), 15):
        given = np.zeros(len(series), CELL)
        given["file"], given["row"], given["channel"] = series.T
        kept.add(given, series @ np.array([[1000], [10], [1]], np.float32))
        kept.add(given[:0], np.zeros((0, 1), np.float32))
    for file in range(2):
        found = [kept.of(file, first, 3) for first in (1, 4, 7, 10)]
        assert [len(part) for part in found] == [6, 6, 6, 4]
        own = np.concatenate(found)
        assert list(zip(own["row"], own["channel"], strict=True)) == [p[1:] for p in places if p[0] == file]
        assert own["answer"][:, 0].tolist() == [1000 * file + 10 * p[1] + p[2] for p in places if p[0] == file]
