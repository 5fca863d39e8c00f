"""Gather the series of a table from its files, before shards are planned.

Each file is read in a child process with limits (`pipeline.prepare.guard`) into a part on disk; the parts are merged,
sorted into chunks of whole series, and indexed. Tasks then read series by series. An attempt that ends after this, for
example because Ray does not start, leaves the gathered series for the next one.
"""

import hashlib
import json
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local
from typing import NamedTuple

from pydantic import ValidationError

from driftwork.config_base import Config
from driftwork.errors import DriftworkError, unwritable
from driftwork.files import aside, printable, sync
from pipeline.prepare.build import Unreadable
from pipeline.prepare.guard import Guard, Limits
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found
from pipeline.readers.tables.merge import merge
from pipeline.readers.tables.series import Series, SeriesConfig
from pipeline.readers.tables.sheets import DISK, Missing, Sheets, SheetsConfig
from pipeline.readers.tables.survey import survey
from pipeline.sequence import Item, UnreadableError
from pipeline.shards.manifest import SCHEMA

TABLE = "table"
"""Folder of parts, chunks and index, within the staging folder of a preparation."""
KEPT = "gathered.json"
"""File in the folder `TABLE` that is written when all series are gathered."""


class Gathered(NamedTuple):
    series: Series
    inputs: dict[str, str | None]
    """SHA-256 of each file of the table, None for one that could not be opened."""
    unreadable: list[Unreadable]
    """Files that could not be read."""

    @property
    def hash(self) -> str:
        """Hash of everything that decides the contents of the series."""
        parts = [sorted(self.inputs.items()), [bad.file for bad in self.unreadable]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Kept(Config):
    """Gathered series that a later attempt can use."""

    made_of: str
    """Result of `made_of` for these series."""
    series: SeriesConfig
    """Reader of the series."""
    unreadable: tuple[Unreadable, ...]
    """Files that could not be read."""


@contextmanager
def scratch(staging: Path | None, address: str) -> Iterator[Path]:
    """Yield a folder that all workers share: an empty one, or that in which an earlier attempt gathered the series. At
    the end it is removed, unless all series are gathered in it.

    It lies in the staging folder. If the output is a store it lies on this machine, and is always removed."""
    if staging is None and address != "local":
        raise DriftworkError(
            f"address={address}: a table needs a folder that all machines share; give a folder as out, or address=local"
        )
    folder = staging / TABLE if staging is not None else Path(tempfile.mkdtemp(prefix="driftwork-"))
    try:
        if staging is not None and not (folder / KEPT).exists():  # the other one is new, and no other user can read it
            _empty(folder)
        yield folder
    finally:
        if staging is None or not (folder / KEPT).exists():
            shutil.rmtree(folder, ignore_errors=True)


def made_of(config: TableConfig, inputs: dict[str, str | None], limits: Limits) -> str:
    """Return a hash of everything that determines the gathered series."""
    parts = [SCHEMA, config.model_dump(mode="json"), sorted(inputs.items()), limits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def keep(folder: Path, mark: str, gathered: Gathered) -> None:
    """Let a later attempt use the gathered series, even after a crash of the machine.

    Args:
        mark: result of `made_of`.
    """
    for path in folder.iterdir():
        sync(path)
    entry = _Kept(made_of=mark, series=gathered.series.config, unreadable=tuple(gathered.unreadable))
    with aside(folder / KEPT) as temporary:
        temporary.write_text(entry.model_dump_json(), encoding="utf-8")


def kept(folder: Path, mark: str, inputs: dict[str, str | None]) -> Gathered | None:
    """Return the series that an earlier attempt has gathered. If there are none, or others, empty the folder."""
    try:
        entry = _Kept.model_validate_json((folder / KEPT).read_bytes())
    except (FileNotFoundError, ValidationError):
        entry = None
    if entry is None or entry.made_of != mark:
        _empty(folder)
        return None
    here = entry.series.model_copy(update={"scratch": folder})  # the output folder may have been moved
    return Gathered(Series(here), inputs, list(entry.unreadable))


def _empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def read_files(
    config: TableConfig, found: Found, folder: Path, limits: Limits, workers: int | None, missing: Missing = "none"
) -> list[Unreadable]:
    """Write the part of each file, several at a time, and return the files that cannot be read.

    Args:
        missing: values that are kept as NaN, see `SheetsConfig`.
    """
    sheets = Sheets(SheetsConfig(table=config, scratch=folder, missing=missing))
    mib = max(_bytes(found.root / name) for name in found.names) / 2**20
    limits = limits._replace(seconds=limits.seconds * max(1, math.ceil(mib)))
    own, guards = local(), []

    def read(number: int) -> str | None:
        if not hasattr(own, "guard"):
            own.guard = Guard(sheets, found.root, limits)  # one a thread: a child takes a second to start
            guards.append(own.guard)
        try:
            own.guard.read(Item(found.names[number], str(number), (found.names[number],)))
        except UnreadableError as error:
            if str(error).startswith(DISK):
                raise DriftworkError(printable(str(error))) from None
            return printable(str(error))
        return None

    try:
        with ThreadPoolExecutor(min(workers or os.cpu_count() or 1, len(found.names))) as pool:
            reasons = list(pool.map(read, range(len(found.names))))
    finally:
        for guard in guards:
            guard.close()
    return [
        Unreadable(file=printable(name), reason=reason)
        for name, reason in zip(found.names, reasons, strict=True)
        if reason is not None
    ]


def gather(
    config: TableConfig, found: Found, folder: Path, inputs: dict[str, str | None], unreadable: list[Unreadable]
) -> Gathered:
    """Merge the parts of the readable files. Raises `DriftworkError` if files contradict each other."""
    bad = {file.file for file in unreadable}
    files = [number for number, name in enumerate(found.names) if printable(name) not in bad]
    try:
        series = survey(config, folder, merge(config, folder, files, found.names), found.names)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise unwritable(folder, reason) from None
    return Gathered(series, inputs, unreadable)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
