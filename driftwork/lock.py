"""One process at a time."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from driftwork.errors import DriftworkError

_SOON_S = 2.0
"""Within which waiting is not worth a word."""


@contextmanager
def locked(file: Path, where: str, command: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of `file`, which is made if it is not there. It is freed with the process, however that ends.
    One that is about to end, as who started it was killed, is waited for up to `patience` seconds.

    Raises:
        DriftworkError: the file cannot be written, or another process holds it; said of `where`, as in out=FOLDER, and
        of the `command` that is at work there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file).acquire(timeout=patience)
    except Timeout:
        raise DriftworkError(f"{where}: another {command} is at work there") from None
    except OSError as error:
        raise DriftworkError(f"{where}: cannot be written: {error.strerror}") from None
    with lock:
        yield


@contextmanager
def in_turn(file: Path, where: str, notice: str) -> Iterator[None]:
    """Hold the lock of `file` as soon as nobody else does, however long that takes; `notice` goes to stderr if one has
    to wait. Raises `DriftworkError`, said of `where`, when the file cannot be written."""
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_SOON_S)
        except Timeout:
            print(f"driftwork: {notice}", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise DriftworkError(f"{where}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
