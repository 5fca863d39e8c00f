"""Write the index of a table and determine the form of its sequences, chunk by chunk."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.merge import Merged
from pipeline.readers.tables.parts import record, shown
from pipeline.readers.tables.series import INDEX, Series, SeriesConfig, seconds, windows
from pipeline.readers.tables.settle import chunks
from pipeline.sequence import DataSpec
from pipeline.table_spec import Static, TableSpec


class _Channels:
    """Number, minimum and maximum of the observations of each of D channels."""

    def __init__(self, dim: int) -> None:
        self.count = np.zeros(dim, np.int64)
        self.low, self.high = np.full(dim, np.inf), np.full(dim, -np.inf)
        self.other = np.zeros(dim, np.bool_)
        """[D] whether a channel has values other than 0 and 1."""

    def add(self, records: NDArray[Any]) -> None:
        self.count += np.bincount(records["channel"], minlength=len(self.count))
        np.minimum.at(self.low, records["channel"], records["value"])
        np.maximum.at(self.high, records["channel"], records["value"])
        self.other[records["channel"][(records["value"] != 0) & (records["value"] != 1)]] = True

    @property
    def binary(self) -> NDArray[np.bool_]:
        """[D] whether a channel has both values 0 and 1, and no others."""
        return ~self.other & (self.low < self.high)


class _Lengths:
    """Length of the longest sequence, and mean time between the times of a series."""

    def __init__(self) -> None:
        self.longest, self.seconds, self.steps = 1, 0.0, 0

    def add(self, ticks: NDArray[Any], config: TableConfig) -> None:
        times = seconds(np.unique(ticks), config.time_unit)
        self.longest = max(self.longest, *(part.stop - part.start for part in windows(times, config)))
        self.seconds, self.steps = self.seconds + float(times[-1]), self.steps + len(times) - 1

    def merge(self, other: "_Lengths") -> None:
        self.longest = max(self.longest, other.longest)
        self.seconds, self.steps = self.seconds + other.seconds, self.steps + other.steps

    @property
    def interval(self) -> float:
        """Mean interval between neighbouring times, in seconds; 1 if no series has two times."""
        return self.seconds / self.steps if self.steps else 1.0


def survey(config: TableConfig, folder: Path, merged: Merged, names: Sequence[str]) -> Series:
    """Write the chunks and the index of the merged parts in `folder`, and return the reader of the series.

    Raises `DriftworkError` for a channel without any value and for groups in two splits.
    """
    groups = _groups(config, merged)
    static, vectors = _static(config, merged)
    channels, lengths = _Channels(len(merged.channels)), _Lengths()
    observed: dict[int, _Lengths] = {}
    with closing(sqlite3.connect(folder / INDEX)) as database, database:
        database.execute(
            'CREATE TABLE series (name TEXT PRIMARY KEY, "group" TEXT, split TEXT, static TEXT, chunk INT, start INT, '
            "observations INT) WITHOUT ROWID"
        )
        database.execute("CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT)")
        database.executemany("INSERT INTO files VALUES (?, ?)", enumerate(names))
        splits = merged.attributes.get(config.split or "", [None] * len(merged.series))
        for chunk, records, spans in chunks(folder, merged, record(config.time_unit)):
            channels.add(records)
            for number, start, count in zip(*(column.tolist() for column in spans), strict=True):
                place = (merged.series[number], groups[number], splits[number], vectors[number], chunk, start, count)
                database.execute("INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?)", place)
                observed[number] = _Lengths()
                observed[number].add(records["time"][start : start + count], config)
    for number in sorted(observed):  # in the order of names: a sum depends on its order
        lengths.merge(observed[number])
    empty = [name for number, name in enumerate(merged.series) if number not in observed]
    if empty:
        print(f"{len(empty)} series have no value and are left out, the first {shown(empty[0])}", flush=True)
    _check(config, merged, channels)
    return Series(
        SeriesConfig(table=config, spec_of_all=_spec(config, merged, channels, lengths, static), scratch=folder)
    )


def _spec(
    config: TableConfig, merged: Merged, channels: _Channels, lengths: _Lengths, static: tuple[Static, ...]
) -> DataSpec:
    return DataSpec(
        dim=len(merged.channels),
        length=lengths.longest,
        interval=lengths.interval,
        likelihood=config.likelihood,
        units=config.units[0] if len(set(config.units)) == 1 else "value",
        kind="table",
        table=TableSpec(
            channels=tuple(merged.channels),
            units=config.units,
            binary=tuple(name for name, own in zip(merged.channels, channels.binary, strict=True) if own),
            layout=config.layout,
            series=config.series,
            time=config.time,
            time_unit=config.time_unit,
            zone="UTC" if merged.zone else None,
            static=static,
        ),
    )


def _groups(config: TableConfig, merged: Merged) -> list[str]:
    """Return the group of each series. Raises `DriftworkError` if a group is in two splits."""
    if config.group is None:
        return merged.series
    groups = [str(group) for group in merged.attributes[config.group]]
    if config.split is not None:
        splits: dict[str, tuple[Any, str]] = {}
        for name, group, split in zip(merged.series, groups, merged.attributes[config.split], strict=True):
            other, first = splits.setdefault(group, (split, name))
            if other != split:
                raise DriftworkError(
                    f"group {shown(group)} is in two splits: series {shown(first)} in {other or 'none'} and "
                    f"{shown(name)} in {split or 'none'}; give all series of a group the same split"
                )
    return groups


def _static(config: TableConfig, merged: Merged) -> tuple[tuple[Static, ...], list[str]]:
    """Return the static columns, and for each series the JSON list of its static covariates.

    A missing number is null; a missing category is all zeros."""
    columns = [Static(column=name, categories=None) for name in config.static_numbers]
    for name in config.static_categories:
        found = {str(value) for value in merged.attributes[name] if value is not None}
        columns.append(Static(column=name, categories=tuple(sorted(found))))
    vectors = []
    for number in range(len(merged.series)):
        vectors.append(json.dumps(static_vector(columns, merged, number)))
    return tuple(columns), vectors


def static_vector(columns: Iterable[Static], merged: Merged, number: int) -> list[Any]:
    """Return the static covariates of a series. A missing number is None; a missing category is all zeros."""
    vector: list[Any] = []
    for column in columns:
        value = merged.attributes[column.column][number]
        vector += [value] if column.categories is None else [float(value == name) for name in column.categories]
    return vector


def _check(config: TableConfig, merged: Merged, channels: _Channels) -> None:
    """Raise `DriftworkError` for a channel without any value, and print a warning for one that never changes."""
    if not channels.count.all():
        number = int(np.argmin(channels.count != 0))
        others = f" (and {int((channels.count == 0).sum()) - 1} others)" if (channels.count == 0).sum() > 1 else ""
        raise DriftworkError(
            f"channel {shown(merged.channels[number])}{others} has no value in any row; list the channels that have "
            "values in dataset.channels"
        )
    constant = np.flatnonzero(channels.low == channels.high)
    for number in constant[:5]:
        name = shown(merged.channels[number])
        print(f"channel {name} is always {channels.low[number]:g}; nothing can be learnt from it", flush=True)
    if len(constant) > 5:
        print(f"{len(constant) - 5} more channels never change", flush=True)
