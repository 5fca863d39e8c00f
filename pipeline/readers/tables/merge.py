"""Merge the parts of all files: number series and channels across files, and collect the attributes of each series.

Memory grows with the number of series and not with that of rows.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import MAX_CHANNELS, load_part, shown


class Renumbered(NamedTuple):
    """A part with the numbers of its series and channels in the whole table."""

    file: int
    series: NDArray[np.uint32]
    channels: NDArray[np.uint16]


class Merged(NamedTuple):
    series: list[str]
    """Names of all series, sorted."""
    channels: list[str]
    """Names of all channels: those of the config, or all, sorted."""
    attributes: dict[str, list[str | float | None]]
    """Value for each series, by column."""
    parts: list[Renumbered]
    sorted: bool
    """Whether the rows of each series are contiguous and lie in one file."""
    zone: bool
    """Whether times have a zone."""


def merge(config: TableConfig, folder: Path, files: Iterable[int], names: Sequence[str]) -> Merged:
    """Merge the parts of `files`, the numbers of readable files among `names`.

    Raises `DriftworkError` if files contradict each other.
    """
    known: set[str] = set()
    channels: dict[str, None] = dict.fromkeys(config.channels)
    found: dict[str, dict[str, tuple[Any, int]]] = {column: {} for column in config.attributes}
    zones: dict[bool, int] = {}
    in_order, kept = True, []
    for file in files:
        part = load_part(folder, file)
        kept.append(file)
        in_order &= part.contiguous and known.isdisjoint(part.series)
        channels |= dict.fromkeys(part.channels)
        if len(channels) > MAX_CHANNELS:
            raise DriftworkError(
                f"{printable(names[file])}: more than {MAX_CHANNELS} channels with those of the files before it; "
                "list fewer in dataset.channels"
            )
        if part.zoned is not None:
            zones.setdefault(part.zoned, file)
        for column, values in part.attributes.items():
            _merge_attribute(found[column], column, part.series, values, file, names)
        known.update(part.series)
    if len(zones) > 1:
        raise DriftworkError(
            f"{printable(names[zones[True]])} has times with a zone and {printable(names[zones[False]])} without; "
            "write all times alike"
        )
    series = sorted(known)
    order = list(channels) if config.channels else sorted(channels)
    if not series:
        raise DriftworkError(f"{printable(names[0])}: no rows, nor in any other file; give another source")
    return Merged(
        series=series,
        channels=order,
        attributes={
            column: [values[name][0] if name in values else None for name in series] for column, values in found.items()
        },
        parts=[_renumbered(folder, file, series, order) for file in kept],
        sorted=in_order,
        zone=True in zones,
    )


def _renumbered(folder: Path, file: int, series: list[str], channels: list[str]) -> Renumbered:
    part = load_part(folder, file)
    places = {name: number for number, name in enumerate(channels)}
    own = [bisect_left(series, name) for name in part.series]
    return Renumbered(file, np.array(own, np.uint32), np.array([places[name] for name in part.channels], np.uint16))


def _merge_attribute(
    found: dict[str, tuple[Any, int]], column: str, series: list[str], values: list[Any], file: int,
    names: Sequence[str],
) -> None:  # fmt: skip
    """Add the values of a file to `found`, each with the number of the first file that has it."""
    for name, value in zip(series, values, strict=True):
        if value is None:
            continue
        before, first = found.setdefault(name, (value, file))
        if before != value:
            raise DriftworkError(
                f"{printable(names[file])}: series {shown(name)} has {shown(str(value))} in column "
                f"'{printable(column)}', and {shown(str(before))} in {printable(names[first])}; it must be "
                "the same in all rows of a series"
            )
