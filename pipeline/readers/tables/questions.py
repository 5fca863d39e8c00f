"""Series of a user's own table as inputs of a model: with missing entries to fill, or with new times after the end.

T times of a sequence, D channels, N entries.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.merge import Merged
from pipeline.readers.tables.parts import chunk_path, record, shown
from pipeline.readers.tables.series import Frames, check_no_duplicate, frames, key, seconds, window_unit, windows
from pipeline.readers.tables.settle import chunks
from pipeline.readers.tables.survey import static_vector
from pipeline.sequence import DataSpec, UnreadableError
from pipeline.sequence import Sequence as Example
from pipeline.table_spec import TableSpec, TimeUnit

CELL = np.dtype([
    ("file", "<u4"), ("row", "<u4"), ("channel", "<u2"), ("frame", "<u4"), ("known", "<f4"), ("extra", "?"),
])  # fmt: skip
"""Type of an entry to fill.

file, row   place of the entry in the table
channel     number of the channel
frame       number of the frame in the sequence
known       the value, if another row has it; otherwise NaN
extra       whether the table has no row for the entry, so that it becomes a new row after `row`
"""

MAX_STEPS = 2**20
"""Maximum number of new times of a series."""


class Own(NamedTuple):
    """A series of the user's table."""

    name: str
    frames: Frames
    about: dict[str, Any]
    """Description of the series, as in `Sequence.about` of prepared sequences."""
    records: NDArray[Any]
    """Observations of the series, sorted by time and channel; NaN for a missing value."""


class Question(NamedTuple):
    """A sequence that a model observes, and the entries that its outputs fill."""

    sequence: Example
    cells: NDArray[Any]
    """[N] entries to fill, of type `CELL`."""


class Ahead(NamedTuple):
    """A sequence that ends with new times, at which nothing is observed."""

    sequence: Example
    ticks: NDArray[Any]
    """New times, in the form of `Frames.ticks`."""
    file: int
    row: int
    """File and row of the last time with a value."""


def own_series(
    config: TableConfig, spec: DataSpec, folder: Path, merged: Merged, names: Sequence[str], refused: dict[str, str]
) -> Iterator[Own]:
    """Yield the series of a table whose parts are in `folder`, and remove the parts.

    A series that cannot be used is added to `refused`, with the reason."""
    table, files = _table(spec), dict(enumerate(names))
    for chunk, records, spans in chunks(folder, merged, record(config.time_unit)):
        chunk_path(folder, chunk).unlink()
        for number, start, count in zip(*(column.tolist() for column in spans), strict=True):
            name, own = merged.series[number], records[start : start + count]
            try:
                check_no_duplicate(own[~np.isnan(own["value"])], spec, files)
                found = frames(own, spec, config.time_unit)
            except UnreadableError as error:
                refused[printable(name)] = str(error)
                continue
            about = {"series": name, "static": static_vector(table.static, merged, number)}
            yield Own(name, found, about, own)


def holes(own: Own, config: TableConfig) -> Iterator[Question]:
    """Yield the windows of a series, each with all entries that are missing at its times.

    Windows do not overlap, so that each entry is filled once.
    """
    cells = _cells(own, config.layout == "long")
    parts = windows(own.frames.times, config.model_copy(update={"stride": None}))
    edges = np.searchsorted(cells["frame"], [(part.start, part.stop) for part in parts])
    for number, (part, (first, end)) in enumerate(zip(parts, edges.tolist(), strict=True)):
        mine = cells[first:end].copy()
        mine["frame"] -= part.start
        yield Question(_sequence(own, number, part), mine)


def _cells(own: Own, extras: bool) -> NDArray[Any]:
    """Return the entries [N] of a series to fill, sorted by frame; with `extras` also those without a row."""
    records, (_, _, values, mask) = own.records, own.frames
    frame = np.unique(records["time"], return_inverse=True)[1]
    gone = np.isnan(records["value"])
    cells = np.zeros(int(gone.sum()), CELL)
    for field in ("file", "row", "channel"):
        cells[field] = records[field][gone]
    cells["frame"] = frame[gone]
    at = cells["frame"], cells["channel"]
    cells["known"] = np.where(mask[at], values[at], np.float32(np.nan))
    if not extras:
        return cells
    named = np.zeros(mask.shape, np.bool_)
    named[frame, records["channel"]] = True
    order = np.lexsort((records["row"], records["file"], frame))
    last = order[np.flatnonzero(np.diff(frame[order], append=-1))]  # the last row of each time, in order of time
    frames_of, channels = np.nonzero(~named)
    more = np.zeros(len(frames_of), CELL)
    more["frame"], more["channel"], more["extra"], more["known"] = frames_of, channels, True, np.nan
    for field in ("file", "row"):
        more[field] = records[field][last[frames_of]]
    both = np.concatenate([cells, more])
    return both[np.argsort(both["frame"], kind="stable")]


class Horizon(NamedTuple):
    """Times of a forecast after the last time of a series."""

    until: int | float
    """Last time, in the form of `Frames.ticks`; if `relative`, the time from the end of each series."""
    every: int | float
    """Time between two frames, above 0, in the same unit."""
    relative: bool
    """Whether `until` is measured from the end of each series."""
    most: int = MAX_STEPS
    """Maximum number of new times of a series."""

    def ticks(self, last: Any) -> NDArray[Any]:
        """Return the new times of a series that ends at `last`; none if it ends after `until`.

        Raises `DriftworkError` for too many new times, and for one that 64 bits of nanoseconds do not hold.
        """
        exact = isinstance(self.every, int)
        end = int(last) if exact else float(last)
        span = self.until if self.relative else self.until - end
        steps = span // self.every if exact else span / self.every + 1e-9  # 0.3 / 0.1 is below 3
        if steps > self.most:
            raise DriftworkError(f"every: makes more than {self.most} new times of a series; give a longer span")
        count = max(int(steps), 0)
        if exact and end + count * self.every > np.iinfo(np.int64).max:
            raise DriftworkError("until: is after the year 2262, up to which times are counted; give an earlier time")
        return last + np.arange(1, count + 1) * np.asarray(self.every)


def ahead(own: Own, config: TableConfig, horizon: Horizon, first: int | None) -> Ahead | None:
    """Return a series with its new times, or None if it has none.

    New times follow the last row. The model gets only the times with a value, of which there must be one.

    Args:
        first: number of frames at the end of the series that the model observes; None for those of a window, or all.
    """
    new = horizon.ticks(own.frames.ticks[-1])
    if not len(new):
        return None
    own = _observed(own, config.time_unit)
    ticks, times = own.frames.ticks, own.frames.times
    if first is not None:
        start = max(0, len(ticks) - first)
    elif config.window is not None:
        start = int(np.searchsorted(times, times[-1] - config.window * window_unit(config.time_unit), side="right"))
    else:
        start = 0
    past = _sequence(own, 0, slice(start, len(ticks)))
    frames = np.zeros((len(new), past.values.shape[1]), past.values.dtype)
    sequence = past._replace(
        times=seconds(np.concatenate([ticks[start:], new]), config.time_unit),
        values=np.concatenate([past.values, frames]),
        mask=np.concatenate([past.mask, frames.astype(np.bool_)]),
    )
    last = own.records[np.lexsort((own.records["row"], own.records["file"], own.records["time"]))[-1]]
    return Ahead(sequence, new, int(last["file"]), int(last["row"]))


def _observed(own: Own, unit: TimeUnit) -> Own:
    """Return a series without its times and observations that have no value."""
    there = own.frames.mask.any(axis=1)
    ticks, values, mask = own.frames.ticks[there], own.frames.values[there], own.frames.mask[there]
    known = own.records[~np.isnan(own.records["value"])]
    return own._replace(frames=Frames(ticks, seconds(ticks, unit), values, mask), records=known)


def check_fits(config: TableConfig, spec: DataSpec, merged: Merged) -> list[str]:
    """Check that a table has the form that a run was trained on, and return warnings.

    Raises `DriftworkError` for an unknown channel, and if only one of table and run has times with a zone.
    """
    table = _table(spec)
    unknown = sorted(set(merged.channels) - set(table.channels))
    if unknown:
        raise DriftworkError(
            f"channel {shown(unknown[0])} is unknown to the run, which has {', '.join(map(shown, table.channels[:8]))}"
            f"{', ...' if len(table.channels) > 8 else ''}; rename it, or leave it out"
        )
    if config.time_unit == "iso" and table.time_unit == "iso" and merged.zone != (table.zone is not None):
        here, there = ("with", "without") if merged.zone else ("without", "with")
        raise DriftworkError(
            f"column '{printable(config.time)}' has times {here} a zone, but the run was trained on times {there}; "
            "write them alike"
        )
    warnings = []
    for column in table.static:
        found = {str(value) for value in merged.attributes[column.column] if value is not None}
        new = sorted(found - set(column.categories or found))
        if new:
            warnings.append(
                f"column '{printable(column.column)}': {shown(new[0])} is no category of the run, and counts as missing"
            )
    return warnings


def _sequence(own: Own, number: int, part: slice) -> Example:
    _, times, values, mask = own.frames
    return Example(f"{key(own.name)}-{number:04d}", own.name, times[part], values[part], mask[part], own.about)


def _table(spec: DataSpec) -> TableSpec:
    assert spec.table is not None, "the data are not a table"
    return spec.table
