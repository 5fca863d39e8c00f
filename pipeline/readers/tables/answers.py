"""A model's outputs for missing entries and new times of a table, kept on disk until the table is written.

The outputs are sorted by file and row, and memory is bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.readers.tables.parts import record
from pipeline.table_spec import TimeUnit

_CELLS = 2**18
"""Maximum number of entries of a block of rows, and about that of answers that wait to be written."""


class Answers:
    """Model outputs (answers) for missing entries (cells), by file and row.

    Args:
        folder: folder of the blocks on disk.
        dim: number of channels, D.
        width: number of quantities of an answer, K, such as its mean.
    """

    def __init__(self, folder: Path, dim: int, width: int) -> None:
        self.folder, self.block = folder, max(1, _CELLS // dim)
        self.kind = np.dtype([("row", "<u4"), ("channel", "<u2"), ("extra", "?"), ("answer", "<f4", (width,))])
        self._waiting: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
        self._count = 0
        self._kept: tuple[tuple[int, int], NDArray[Any]] = ((-1, -1), np.zeros(0, self.kind))

    def add(self, cells: NDArray[Any], answers: NDArray[np.float32]) -> None:
        """Store the answers [N, K] for cells [N]."""
        if not len(cells):
            return
        answered = np.zeros(len(cells), self.kind)
        for field in ("row", "channel", "extra"):
            answered[field] = cells[field]
        answered["answer"] = answers
        self._waiting.append((cells["file"].astype(np.int64), answered))
        self._count += len(cells)
        if self._count >= _CELLS:
            self._write()

    def _write(self) -> None:
        """Append the waiting answers to their blocks. A series may have answers in all blocks, so many are written at
        once."""
        if not self._waiting:
            return
        files, answered = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        places, home = np.unique(np.stack([files, answered["row"] // self.block]), axis=1, return_inverse=True)
        order = np.argsort(home.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(home.reshape(-1)))
        for (file, block), part in zip(places.T.tolist(), np.split(order, ends[:-1]), strict=True):
            with self._path(file, block).open("ab") as handle:
                handle.write(answered[part].tobytes())

    def of(self, file: int, first: int, rows: int) -> NDArray[Any]:
        """Return the answers for successive rows, sorted by row and channel.

        Each file must be read once, from its first row to its last."""
        self._write()
        blocks = range(first // self.block, (first + rows - 1) // self.block + 1) if rows else range(0)
        found = [self._block(file, block) for block in blocks]
        parts = [part[(part["row"] >= first) & (part["row"] < first + rows)] for part in found]
        return np.concatenate([*parts, np.zeros(0, self.kind)])

    def _block(self, file: int, block: int) -> NDArray[Any]:
        if self._kept[0] != (file, block):
            path = self._path(file, block)
            load = np.fromfile(path, self.kind) if path.exists() else np.zeros(0, self.kind)
            self._kept = (file, block), load[np.lexsort((load["channel"], load["extra"], load["row"]))]
        return self._kept[1]

    def _path(self, file: int, block: int) -> Path:
        return self.folder / f"answers-{file:05d}-{block:07d}"


class Continuations:
    """New times of series with the answers for them, by file and row of the last time of the series.

    Only the positions of the answers on disk are in memory.

    Args:
        folder: folder of the file on disk.
        dim, width: D and K of the answers.
    """

    def __init__(self, folder: Path, unit: TimeUnit, dim: int, width: int) -> None:
        self.path, self.kind, self.shape = folder / "continuations", record(unit)["time"], (dim, width)
        self._places: list[tuple[int, int, int, int]] = []
        """File, row, position on disk and number of new times of each series."""

    def add(self, file: int, row: int, ticks: NDArray[Any], answers: NDArray[np.float32]) -> None:
        """Store the answers [T, D, K] for the new times [T] of a series."""
        with self.path.open("ab") as handle:
            self._places.append((file, row, handle.tell(), len(ticks)))
            handle.write(ticks.astype(self.kind).tobytes() + answers.astype(np.float32).tobytes())

    def rows(self, file: int) -> NDArray[np.int64]:
        """Return the rows of a file that new times follow, ascending."""
        return np.array(sorted(row for number, row, *_ in self._places if number == file), np.int64)

    def of(self, file: int) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Yield new times and answers in the order of `rows`."""
        for number, _, position, count in sorted(self._places):
            if number == file:
                ticks = np.fromfile(self.path, self.kind, count, offset=position)
                answers = np.fromfile(
                    self.path, np.float32, count * self.shape[0] * self.shape[1], offset=position + ticks.nbytes
                )
                yield ticks, answers.reshape(count, *self.shape)
