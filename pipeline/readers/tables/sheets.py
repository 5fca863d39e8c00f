"""Read the files of a table one by one, each into a part of observations on disk.

This runs in the child process that reads raw files (`pipeline.prepare.guard`), so that a file that crashes pyarrow or
exhausts memory is the only one lost.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from driftwork.config_base import Config
from driftwork.files import printable
from pipeline.readers.tables.arrow import Batch, batches
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import MAX_CHANNELS, MAX_ROWS, Part, record, rows_path, shown
from pipeline.sequence import SPLITS, DataSpec, Item, Sequence, UnreadableError, folder

DISK = "observations cannot be written to"
"""Beginning of the message of a disk error, for which the file that is read is not to blame."""
_INDEX = frozenset(["", "Unnamed: 0", "__index_level_0__"])
"""Names of a column of row numbers, as pandas writes it."""
_LARGEST = float(np.finfo(np.float32).max)


Missing = Literal["none", "rows", "all"]


class SheetsConfig(Config):
    table: TableConfig
    """Settings of the data set."""
    scratch: Path
    """Folder of the parts."""
    missing: Missing = "none"
    """Missing values that are kept, as observations of NaN: all, to be filled later, or one of each row without any
    value, whose time would be lost. By default none is kept."""


@dataclass(frozen=True)
class Sheets:
    """Reader that writes parts and returns no sequences, because a series may be spread over files."""

    config: SheetsConfig

    def spec(self) -> DataSpec:
        raise NotImplementedError("the form of a table is known only after its files are read")

    def find(self, source: Path | None) -> list[Item]:
        raise NotImplementedError("the files of a table are listed by pipeline.readers.tables.files")

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        """Write the part of a file, whose number is the item's group. The text of a disk error begins with `DISK`."""
        try:
            sheet = _Sheet(self.config.table, int(item.group), self.config.missing)
            sheet.write(folder(source) / item.name, self.config.scratch)
        except OSError as error:
            raise UnreadableError(f"{DISK} {self.config.scratch}: {error.strerror}") from None
        return []


class _Numbers:
    """Numbers of names, in the order of their first occurrence."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def take(self, codes: NDArray[np.int64], names: list[str]) -> NDArray[np.int64]:
        """Return the number of each row's name; `codes` holds the index of that name in `names`."""
        numbers = np.array([self.of.setdefault(name, len(self.of)) for name in names], np.int64)
        return numbers[codes]


class _Sheet:
    """The rows of one file that have been read so far."""

    def __init__(self, config: TableConfig, number: int, missing: Missing) -> None:
        self.config, self.number, self.missing = config, number, missing
        self.series, self.channels = _Numbers(), _Numbers()
        self.attributes: dict[str, dict[int, str | float]] = {column: {} for column in config.attributes}
        self.zoned: bool | None = None
        self.contiguous, self.last, self.rows = True, -1, 0
        for name in config.channels:
            self.channels.of[name] = len(self.channels.of)

    def write(self, path: Path, scratch: Path) -> None:
        with rows_path(scratch, self.number).open("wb") as handle:
            for batch in batches(path, self.config, self._columns):
                handle.write(self._records(batch).tobytes())
        Part(
            file=self.number,
            rows=self.rows,
            series=list(self.series.of),
            channels=list(self.channels.of),
            attributes={
                column: [found.get(number) for number in range(len(self.series.of))]
                for column, found in self.attributes.items()
            },
            contiguous=self.contiguous,
            zoned=self.zoned,
        ).save(scratch)

    def _columns(self, names: list[str]) -> list[str]:
        """Return the columns to read; the channels of a wide table come last."""
        config, there = self.config, set(names)
        columns = [config.series, config.time, *config.attributes]
        if config.layout == "long":
            columns += [config.channel, config.value]
        else:
            channels = config.channels or tuple(sorted(there - set(columns)))
            index = _INDEX.intersection(() if config.channels else channels)
            if index:
                cure = "write the table with index=False, or list the columns with values in dataset.channels"
                raise UnreadableError(f"column {shown(min(index))} looks like row numbers of pandas; {cure}")
            if len(channels) > MAX_CHANNELS:
                raise UnreadableError(_too_many(f"{len(channels)}"))
            for name in channels:
                self.channels.of.setdefault(name, len(self.channels.of))
            columns += channels
        lacking = [name for name in columns if name not in there]
        if not lacking and config.layout == "wide" and not self.channels.of:
            raise UnreadableError("has no column for a channel; set dataset.layout or dataset.separator to the file's")
        if lacking:
            listed = ", ".join(shown(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
            between = next((char for char in ";\t|" if len(names) == 1 and char in names[0]), None)
            if between is not None:
                raise UnreadableError(f"has no '{config.separator}' in {listed}; set dataset.separator='{between}'")
            keys = ("series", "time", "channel", "value", "group", "split")
            named = [f"dataset.{key}" for key in keys if getattr(config, key) == lacking[0]]
            cure = f"set {named[0]}," if named else "add or rename it, or set"
            raise UnreadableError(
                f"has no column {shown(lacking[0])}, but {listed}; {cure} dataset.layout or dataset.separator to what "
                "the file has"
            )
        return columns

    def _records(self, batch: Batch) -> NDArray[Any]:
        if self.rows + batch.rows > MAX_ROWS:
            raise UnreadableError(f"has more than {MAX_ROWS} rows; divide it into files")
        self.rows += batch.rows
        series = self.series.take(*batch.text(self.config.series, needed=True))
        times, zoned = batch.time()
        if batch.rows:
            if self.zoned not in (None, zoned):
                raise batch.bad(
                    0,
                    f"column '{printable(self.config.time)}' has times with and without a zone; write all times alike",
                )
            self.zoned = zoned
        self._note_order(series)
        for column in self.attributes:
            self._note_attribute(batch, column, series)
        rows, channels, values = self._long(batch) if self.config.layout == "long" else self._wide(batch)
        records = np.empty(len(rows), record(self.config.time_unit))
        records["series"], records["time"] = series[rows], times[rows]
        records["channel"], records["value"] = channels, values
        records["file"], records["row"] = self.number, batch.first + rows
        return records

    def _long(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return the row, the channel and the value of each observation; missing values that are kept are NaN. Each row
        is one of them."""
        codes, names = batch.text(self.config.channel, needed=True)
        if self.config.channels:
            known = np.array([name in self.channels.of for name in names], np.bool_)
            rows = np.flatnonzero(known[codes])
            channels = np.array([self.channels.of.get(name, 0) for name in names], np.int64)[codes]
        else:
            rows, channels = np.arange(batch.rows), self.channels.take(codes, names)
            if len(self.channels.of) > MAX_CHANNELS:
                raise batch.bad(np.argmax(channels >= MAX_CHANNELS), _too_many(f"more than {MAX_CHANNELS}"))
        values, missing = self._values(batch, self.config.value, rows)
        if self.missing == "none":
            rows = rows[~missing[rows]]
        else:
            values = np.where(missing, np.nan, values)
        return rows, channels[rows], values[rows]

    def _wide(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        columns = [self._values(batch, name) for name in self.channels.of]
        values = np.stack([value for value, _ in columns], axis=1)
        missing = np.stack([missing for _, missing in columns], axis=1)
        values = np.where(missing, np.nan, values)
        if self.missing == "all":
            missing = np.zeros_like(missing)
        elif self.missing == "rows":
            missing[missing.all(axis=1), 0] = False
        rows, channels = np.nonzero(~missing)
        return rows, channels, values[rows, channels]

    def _values(
        self, batch: Batch, column: str, rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the values of a column and a mask of the missing ones; all but `rows`, if given, count as missing."""
        values, missing = batch.number(column, only=rows)
        large = np.abs(values) > _LARGEST
        if large.any():
            raise batch.bad(np.argmax(large), f"column '{printable(column)}' is {values[large][0]:g}, beyond float32")
        if self.config.likelihood == "bernoulli":
            other = (values != 0) & (values != 1)
            if other.any():
                what = f"is {values[other][0]:g}, but likelihood=bernoulli allows only 0 and 1"
                raise batch.bad(np.argmax(other), f"column '{printable(column)}' {what}")
        return values, missing

    def _note_order(self, series: NDArray[np.int64]) -> None:
        """Update whether rows of each series are contiguous. Series are numbered in the order of their first rows."""
        if not len(series) or not self.contiguous:
            return
        steps = np.diff(series, prepend=self.last)
        self.contiguous = bool(((steps == 0) | (steps == 1)).all())
        self.last = int(series[-1])

    def _note_attribute(self, batch: Batch, column: str, series: NDArray[np.int64]) -> None:
        codes: NDArray[Any]
        values: list[Any]
        if column in self.config.static_numbers:
            numbers, missing = batch.number(column)
            distinct, codes = np.unique(numbers, return_inverse=True)
            codes, values = np.where(missing, -1, codes), distinct.tolist()
        else:
            codes, values = batch.text(column, needed=column == self.config.group)
        there = np.flatnonzero(codes >= 0)
        pairs, first = np.unique(np.stack([series[there], codes[there]], axis=1), axis=0, return_index=True)
        found = self.attributes[column]
        for (number, code), at in sorted(zip(map(tuple, pairs.tolist()), there[first].tolist(), strict=True), key=_row):
            value = values[code]
            if column == self.config.split and value not in SPLITS:
                raise batch.bad(at, f"column '{printable(column)}' is {shown(value)}, not train, val or test")
            before = found.setdefault(number, value)
            if before != value:
                name = list(self.series.of)[number]
                what = f"has {shown(str(value))} in column '{printable(column)}' and {shown(str(before))} above"
                raise batch.bad(at, f"series {shown(name)} {what}; it must be the same in all rows of a series")


def _row(pair: tuple[Any, int]) -> int:
    return pair[1]


def _too_many(count: str) -> str:
    return (
        f"{count} channels, and at most {MAX_CHANNELS} are possible; list those to read in dataset.channels, or set "
        "dataset.layout=long and the names of columns"
    )
