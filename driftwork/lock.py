"""File locks, by which only one process at a time works in a folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from driftwork.errors import DriftworkError, unwritable

_SOON_S = 2.0
"""Seconds of waiting before a notice is printed."""


@contextmanager
def locked(file: Path, where: str, command: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of `file`, which is created if missing. It is freed when the process ends, for any reason.

    Args:
        where: setting that error messages name, as in out=FOLDER.
        command: name of the command that takes this lock.
        patience: seconds to wait for a holder that is about to end, since its own parent was killed.

    Raises:
        DriftworkError: the file cannot be written, or another process holds the lock.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file).acquire(timeout=patience)
    except Timeout:
        raise DriftworkError(f"{where}: another {command} is at work there; wait until it has ended") from None
    except OSError as error:
        raise unwritable(where, error.strerror) from None
    with lock:
        yield


@contextmanager
def in_turn(file: Path, where: str, notice: str) -> Iterator[None]:
    """Wait until the lock of `file` is free, however long that takes, and hold it. `notice` is printed to stderr if the
    wait is long. Raises `DriftworkError`, which names `where`, if the file cannot be written."""
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_SOON_S)
        except Timeout:
            print(f"driftwork: {notice}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise unwritable(where, error.strerror) from None
    try:
        yield
    finally:
        lock.release()
