"""Sort the observations of all parts into chunks of whole series, each small enough for memory.

If the rows of each series are contiguous, the parts are streamed once. Otherwise they are first divided on disk, by a
hash of the series, into about as many buckets as there will be chunks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.readers.tables.merge import Merged, Renumbered
from pipeline.readers.tables.parts import chunk_path, rows_path

CHUNK = 2**18
"""Number of observations of a chunk, which takes 6.5 MiB; a series with more has a chunk of its own."""
_BUCKETS = 400
"""Maximum number of buckets, all of which are open at once. Where there would be more, buckets grow with the table."""
_READ = 2**18
"""Number of observations that are read at a time."""


class Spans(NamedTuple):
    """Places of the observations of a chunk's series."""

    series: NDArray[np.int64]
    """Numbers of the series, ascending."""
    start: NDArray[np.int64]
    """Number of the first observation of each series in the chunk."""
    observations: NDArray[np.int64]
    """Number of observations of each series."""


def chunks(folder: Path, merged: Merged, dtype: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any], Spans]]:
    """Write the chunks of the table and yield each with its number and spans; parts and buckets are removed.

    Generators here keep no observations that they have yielded, so that those of one chunk are in memory at a time."""
    loads = _streamed(folder, merged, dtype) if merged.sorted else _bucketed(folder, merged, dtype)
    for chunk, load in enumerate(map(_settled, loads)):
        load.tofile(chunk_path(folder, chunk))
        series, start, count = np.unique(load["series"], return_index=True, return_counts=True)
        yield chunk, load, Spans(series.astype(np.int64), start, count)
        del load  # before the next is read


def _settled(load: NDArray[Any]) -> NDArray[Any]:
    """Return observations sorted by series, time and channel, then by their places in the table."""
    return load[np.lexsort((load["row"], load["file"], load["channel"], load["time"], load["series"]))]


def _pieces(folder: Path, part: Renumbered, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield the observations of a part, renumbered for the whole table, and remove the part."""
    path = rows_path(folder, part.file)
    with path.open("rb") as handle:
        while len(records := np.fromfile(handle, dtype, _READ)):
            records["series"] = part.series[records["series"]]
            records["channel"] = part.channels[records["channel"]]
            yield records
    path.unlink()


def _streamed(folder: Path, merged: Merged, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    waiting: list[NDArray[Any]] = []
    for part in merged.parts:
        for records in _pieces(folder, part, dtype):
            goes_on = bool(waiting) and waiting[0]["series"][0] == records["series"][-1]
            if goes_on or sum(map(len, waiting)) + len(records) <= CHUNK:
                waiting.append(records)
                continue
            load = np.concatenate([*waiting, records])
            cut = int(np.searchsorted(load["series"] == load["series"][-1], True))  # the last series may go on
            waiting = [load[:cut], load[cut:].copy()]
            del load
            yield waiting.pop(0)
    if waiting:
        yield np.concatenate(waiting)


def _bucketed(folder: Path, merged: Merged, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    total = sum(rows_path(folder, part.file).stat().st_size for part in merged.parts) // dtype.itemsize
    count = min(_BUCKETS, 1 + 2 * total // CHUNK)
    paths = [folder / f"bucket-{number:03d}.rows" for number in range(count)]
    handles = [path.open("wb") for path in paths]
    try:
        for part in merged.parts:
            for records in _pieces(folder, part, dtype):
                homes = _hash(records["series"]) % count
                order = np.argsort(homes, kind="stable")
                ends = np.cumsum(np.bincount(homes, minlength=count))
                for handle, mine in zip(handles, np.split(records[order], ends[:-1]), strict=True):
                    mine.tofile(handle)
    finally:
        for handle in handles:
            handle.close()
    for path in paths:
        if path.stat().st_size:
            yield np.fromfile(path, dtype)
        path.unlink()


def _hash(series: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return a hash that spreads neighbouring numbers (Knuth's multiplicative hash)."""
    return (series.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)).astype(np.int64) >> 8
