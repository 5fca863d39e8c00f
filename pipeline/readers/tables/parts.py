"""Observations of a table on disk, between reading its files and building its shards.

part-00000.rows    observations of file 0 in its own order; series and channels are numbers of this file
part-00000.json    the names behind these numbers, and the attributes of each series
chunk-00000.rows   observations of some series of all files, sorted by series, time and channel
index.sqlite       where the observations of each series are, and its attributes
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from driftwork.files import printable
from pipeline.table_spec import TimeUnit

MAX_CHANNELS = 10_000
MAX_ROWS = 2**32 - 1


def shown(text: str) -> str:
    """Return a cell or a name for an error message: on one line, at most 40 characters long."""
    return f"'{printable(text[:40])}'" + ("..." if len(text) > 40 else "")


def cure_of_number(text: str) -> str:
    """Return the cure for a cell that is not a number, as the end of an error message."""
    if re.fullmatch(r"[+-]?\d[\d.]*,\d+", text):
        return "; write decimals with a point"
    return "; add it to dataset.missing if it means a missing value"


def cure_of_time(text: str) -> str:
    """Return the cure for a cell that is not a time by ISO 8601, as the end of an error message."""
    number = re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text)
    return "; set dataset.time_unit to the unit of the numbers" if number else "; write times as 2024-12-31T23:59"


def cure_of_instant(text: str) -> str:
    """Return the cure for a time that is not a number, as the end of an error message."""
    return "; set dataset.time_unit=iso for dates" if re.match(r"\d{4}-\d\d-\d\d", text) else ""


def record(time_unit: TimeUnit) -> np.dtype[Any]:
    """Return the type of an observation: 26 bytes, without gaps."""
    time = "<i8" if time_unit == "iso" else "<f8"
    return np.dtype([
        ("series", "<u4"), ("time", time), ("channel", "<u2"), ("value", "<f4"), ("file", "<u4"), ("row", "<u4"),
    ])  # fmt: skip


class Part(NamedTuple):
    """Summary of a file that was read."""

    file: int
    """Number of the file among the sorted names."""
    rows: int
    """Number of rows of the file."""
    series: list[str]
    """Names of the file's series, in the order of their first rows."""
    channels: list[str]
    """Names of the file's channels."""
    attributes: dict[str, list[str | float | None]]
    """Value for each series, by column; None where it is missing in all rows."""
    contiguous: bool
    """Whether the rows of each series are contiguous."""
    zoned: bool | None
    """Whether times have a zone. None for numbers, and for a file without rows."""

    def save(self, folder: Path) -> None:
        json_path(folder, self.file).write_text(json.dumps(self._asdict()), encoding="ascii")


def load_part(folder: Path, file: int) -> Part:
    return Part(**json.loads(json_path(folder, file).read_bytes()))


def rows_path(folder: Path, file: int) -> Path:
    return folder / f"part-{file:05d}.rows"


def json_path(folder: Path, file: int) -> Path:
    return folder / f"part-{file:05d}.json"


def chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"chunk-{chunk:05d}.rows"
