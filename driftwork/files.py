"""Atomic writing of files and folders, hashes of files, and disk errors."""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftwork.errors import DriftworkError, unwritable


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on a clean exit it is synced to disk and replaces `path`.

    On an exception, or after a crash, `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def aside_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; on a clean exit it is renamed to `path`, which must not exist.

    On an exception nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; on a clean exit it replaces `path`, which may exist.

    On an exception `path` is unchanged.
    """
    fresh, old = (path.with_name(f".{path.name}.{word}.{uuid.uuid4().hex}") for word in ("new", "old"))
    with aside_folder(fresh) as folder:
        yield folder
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Turn an OSError of the block into a `DriftworkError` with the reason; it names `where`, as in out=FOLDER."""
    try:
        yield
    except shutil.Error as error:  # copying a tree failed, with a reason for each file
        raise unwritable(where, error.args[0][0][-1]) from None
    except OSError as error:
        raise unwritable(where, error.strerror or error) from None


def require_room(folder: Path) -> None:
    """Raise OSError if a megabyte does not fit: with a full disk or quota an empty file can still be created."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(2**20))


def write_error_reason(error: Exception) -> str:
    """Return the reason of a failed write in one line.

    After a disk error torch's writer may raise an error of its own about positions in a file. The disk's error is then
    in its context."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return (found and found.strerror) or str(error).splitlines()[0]


def read_json(path: Path, cure: str) -> Any:
    """Read a JSON file. Raises `DriftworkError`, which ends with `cure`, if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DriftworkError(f"{path}: is damaged: {error}; {cure}") from None


def sha256(path: Path) -> str:
    """Return the hex digest of the file's bytes, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def printable(name: str) -> str:
    """Return a file name on one line: control characters, and bytes that are not UTF-8, are written as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
