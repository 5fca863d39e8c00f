"""The series of a gathered table: sequences from the chunks on disk, and the index of series and chunks.

B sequences, T times of a sequence, D channels.
"""

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from re import sub
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.config_base import Config
from driftwork.files import printable
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import chunk_path, record, shown
from pipeline.sequence import DataSpec, Item, Sequence, UnreadableError
from pipeline.table_spec import SECONDS, TimeUnit

INDEX = "index.sqlite"


class Place(NamedTuple):
    """Place of the observations of a series."""

    name: str
    group: str
    split: str | None
    static: str
    """JSON list of the static numbers."""
    chunk: int
    start: int
    """Number of the first observation in the chunk."""
    observations: int


class SeriesConfig(Config):
    table: TableConfig
    """Settings of the data set."""
    spec_of_all: DataSpec
    """Form of every sequence."""
    scratch: Path
    """Folder of the chunks."""


@dataclass(frozen=True)
class Series:
    """Reader of the series of a table. An item is a series.

    Its values are float32 or bool [T, D], with a mask [T, D]; they are 0 where the mask is False."""

    config: SeriesConfig

    def spec(self) -> DataSpec:
        return self.config.spec_of_all

    def find(self, source: Path | None) -> list[Item]:
        """Return the series as items. They have no files, since observations may come from any file of the table."""
        with index(self.config.scratch) as database:
            rows = database.execute('SELECT name, "group", split FROM series ORDER BY name')
            return [Item(name, group, (), split) for name, group, split in rows]

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        with index(self.config.scratch) as database:
            place = Place(*database.execute("SELECT * FROM series WHERE name = ?", (item.name,)).fetchone())
            files = self._files(database, records := self._records(place))
        check_no_duplicate(records, self.config.spec_of_all, files)
        ticks, times, values, mask = frames(records, self.config.spec_of_all, self.config.table.time_unit)
        about = {"series": item.name, "start": self._start(ticks[0]), "static": json.loads(place.static)}
        return [
            Sequence(f"{key(item.name)}-{number:04d}", item.group, times[part], values[part], mask[part], about)
            for number, part in enumerate(windows(times, self.config.table))
        ]

    def _records(self, place: Place) -> NDArray[Any]:
        kind = record(self.config.table.time_unit)
        path = chunk_path(self.config.scratch, place.chunk)
        return np.fromfile(path, kind, place.observations, offset=place.start * kind.itemsize)

    def _files(self, database: sqlite3.Connection, records: NDArray[Any]) -> dict[int, str]:
        """Return the names of the files that hold duplicate entries, by number."""
        twice = _twice(records)
        numbers = set(records["file"][twice].tolist()) | set(records["file"][twice + 1].tolist())
        return {
            number: database.execute("SELECT name FROM files WHERE number = ?", (number,)).fetchone()[0]
            for number in numbers
        }

    def _start(self, tick: Any) -> str | float:
        """Return the time of the first observation, in the unit of the table."""
        if self.config.table.time_unit != "iso":
            return float(tick)
        zone = "Z" if self.config.spec_of_all.table and self.config.spec_of_all.table.zone else ""
        return f"{np.datetime64(int(tick), 'ns')}{zone}"


@contextmanager
def index(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the index for reading. A later preparation may replace the file, but never changes it."""
    with closing(sqlite3.connect(f"{(folder / INDEX).absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        yield database


def _twice(records: NDArray[Any]) -> NDArray[np.int64]:
    """Return the indices of the observations whose successor has the same time and channel."""
    same = (records["time"][1:] == records["time"][:-1]) & (records["channel"][1:] == records["channel"][:-1])
    return np.flatnonzero(same)


def check_no_duplicate(records: NDArray[Any], spec: DataSpec, files: dict[int, str]) -> None:
    """Raise `UnreadableError` with files and rows if a channel has two values at one time."""
    twice = _twice(records)
    if not len(twice):
        return
    assert spec.table is not None, "only a table has duplicate entries"
    (file, other), (row, again) = (records[field][twice[0] :][:2].tolist() for field in ("file", "row"))
    channel = shown(spec.table.channels[int(records["channel"][twice[0]])])
    more = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
    raise UnreadableError(
        f"channel {channel} has two values at one time, in {printable(files[file])}: row {row} and "
        f"{printable(files[other])}: row {again}{more}; keep one of them"
    )


class Frames(NamedTuple):
    """The T times of a series, and its values at these times."""

    ticks: NDArray[Any]
    """[T] times as in the table: nanoseconds since 1970, or numbers in its unit."""
    times: NDArray[np.float64]
    """[T] times, in seconds since the first."""
    values: NDArray[Any]
    """[T, D] values, float32 or bool; 0 where nothing is observed."""
    mask: NDArray[np.bool_]
    """[T, D] whether the channel is observed."""


def frames(records: NDArray[Any], spec: DataSpec, unit: TimeUnit) -> Frames:
    """Return the frames of a series, which must not have duplicate entries. A value of NaN adds its time only.

    Raises `UnreadableError` if two times are too close for a double.
    """
    ticks, row = np.unique(records["time"], return_inverse=True)
    times = seconds(ticks, unit)
    if not (np.diff(times) > 0).all():
        near = ticks[int(np.argmin(np.diff(times) > 0))]
        raise UnreadableError(f"two times near {near} are too close for a double, in seconds since the first")
    there = ~np.isnan(records["value"])
    at = row[there], records["channel"][there]
    mask = np.zeros((len(ticks), spec.dim), np.bool_)
    mask[at] = True
    values: NDArray[Any] = np.zeros(mask.shape, np.bool_ if spec.binary else np.float32)
    values[at] = records["value"][there]
    return Frames(ticks, times, values, mask)


def seconds(ticks: NDArray[Any], unit: TimeUnit) -> NDArray[np.float64]:
    """Return times [T] in seconds since the first.

    Nanoseconds are subtracted as integers, so that the difference is exact to the last bit of a double."""
    since = ticks - ticks[0]  # ascending: a span of over 2^63 ns wraps, and is right as an unsigned number
    return since.view(np.uint64).astype(np.float64) / 1e9 if unit == "iso" else since * SECONDS[unit]


def windows(times: NDArray[np.float64], config: TableConfig) -> list[slice]:
    """Return the windows of a series. Window k begins k strides after the first time.

    A window without a time is left out, and so is one whose times are all in the window before, as at the end."""
    if config.window is None:
        return [slice(0, len(times))]
    unit = window_unit(config.time_unit)
    length, stride = config.window * unit, (config.stride or config.window) * unit
    overlaps = np.arange(math.ceil(length / stride))
    last = np.floor(times / stride)  # the quotient is rounded: compare with the edges themselves
    last += ((last + 1) * stride <= times).astype(np.float64) - (last * stride > times)
    starts = np.unique(np.maximum(last[:, None] - overlaps, 0))
    firsts = np.searchsorted(times, starts * stride)
    ends = np.searchsorted(times, (starts + length / stride) * stride)  # the next start, where length = stride
    new = ends > np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    return [slice(first, end) for first, end in zip(firsts[new].tolist(), ends[new].tolist(), strict=True)]


def window_unit(unit: TimeUnit) -> float:
    """Return the number of seconds of the unit in which windows are given."""
    return 1.0 if unit == "iso" else SECONDS[unit]


def key(series: str) -> str:
    """Return the key of a series: the allowed characters of its name, and a hash that keeps similar names apart."""
    readable = sub("[^A-Za-z0-9_-]+", "_", series)[:40]
    return f"{readable}-{sha256(series.encode()).hexdigest()[:12]}"
