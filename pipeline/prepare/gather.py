"""Gather the series of a table from its files, before shards are planned.

Each file is read in a child process with limits (`pipeline.prepare.guard`) into a part on disk; the parts are merged,
sorted into chunks of whole series, and indexed. Tasks then read series by series.
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

from driftwork.errors import DriftworkError, unwritable
from driftwork.files import printable
from pipeline.prepare.build import Unreadable
from pipeline.prepare.guard import Guard, Limits
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found
from pipeline.readers.tables.merge import merge
from pipeline.readers.tables.series import Series
from pipeline.readers.tables.sheets import DISK, Sheets, SheetsConfig
from pipeline.readers.tables.survey import survey
from pipeline.sequence import Item, UnreadableError

TABLE = "table"
"""Folder of parts, chunks and index, within the staging folder of a preparation."""


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


@contextmanager
def scratch(staging: Path | None, address: str) -> Iterator[Path]:
    """Yield an empty folder that all workers share, and remove it at the end.

    It lies in the staging folder, or on this machine if the output is a store."""
    if staging is None and address != "local":
        raise DriftworkError(
            f"address={address}: a table needs a folder that all machines share; give a folder as out, or address=local"
        )
    folder = staging / TABLE if staging is not None else Path(tempfile.mkdtemp(prefix="driftwork-"))
    try:
        if staging is not None:  # the other one is new, and no other user can read it
            shutil.rmtree(folder, ignore_errors=True)  # of a killed attempt
            folder.mkdir(parents=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_files(
    config: TableConfig, found: Found, folder: Path, limits: Limits, workers: int | None, holes: bool = False
) -> list[Unreadable]:
    """Write the part of each file, several at a time, and return the files that cannot be read.

    Args:
        holes: keep missing values, as NaN.
    """
    sheets = Sheets(SheetsConfig(table=config, scratch=folder, holes=holes))
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
