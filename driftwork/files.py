"""Files that are either there in full or not at all, and what they hash to."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftwork.errors import DriftworkError


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; on a clean exit it is synced to disk and takes the place of `path`.

    On an exception, or after a crash, `path` is what it was.
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
    """Yield a new folder beside `path` to fill; on a clean exit it takes the name `path`, which must be free.

    On an exception there is nothing.
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
    """Yield a new folder beside `path` to fill; on a clean exit it takes the place of `path`, if that is there.

    On an exception `path` is what it was.
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
    """An OSError inside becomes a `DriftworkError`: `where`, as in out=FOLDER, cannot be written, and why."""
    try:
        yield
    except shutil.Error as error:  # of a tree, with a reason for each file
        raise DriftworkError(f"{where}: cannot be written: {error.args[0][0][-1]}") from None
    except OSError as error:
        raise DriftworkError(f"{where}: cannot be written: {error.strerror or error}") from None


def require_room(folder: Path) -> None:
    """Raises OSError where a megabyte does not fit: a disk or a quota that is full still lets an empty file be made."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(2**20))


def disk_says(error: Exception) -> str:
    """Why something could not be written, in a line. torch's writer, when the disk refuses, may raise an error of its
    own over that: of positions in a file."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return (found and found.strerror) or str(error).splitlines()[0]


def sha256(path: Path) -> str:
    """Hex digest of the file's bytes, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def printable(name: str) -> str:
    """A file name on one line: control characters, and bytes that are no UTF-8, are written as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
