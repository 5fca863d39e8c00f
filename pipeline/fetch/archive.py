"""Unpack an archive that may be hostile, member by member: plain files only, under limits, whole or not at all.

The whole archive is refused for anything that an honest archive of recordings has no use for: names that lead
elsewhere, links, devices, duplicate names, sizes over the limits, a missing end.
"""

import gzip
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pydantic import Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError, unwritable
from driftwork.files import printable

_PIECE = 1 << 20
_HEADERS = 4 * 2**20
"""Maximum bytes of a tar before a member and after the last: tarfile holds headers of any claimed length in memory."""
_DIRECTORY_ENTRY = 1024
"""Maximum mean size of an entry of a zip's directory, in bytes; zipfile holds all of them in memory."""
_END_OF_TAR = bytes(1024)
_SPARE_DISK = 64 * 2**20
_RAISE_LIMIT = "raise this limit if you trust the archive"
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, struct.error,
    ValueError, IndexError, KeyError, OverflowError, RecursionError, NotImplementedError, AssertionError, RuntimeError,
)  # fmt: skip
"""Exceptions that the parsers of the standard library raise for bytes that are no archive."""


class Limits(Config):
    max_files: int = Field(ge=1)
    """Largest number of members of the archive, counting those that are left out."""
    max_bytes: int = Field(ge=1)
    """Largest size of all unpacked members together, in bytes."""
    max_file_bytes: int = Field(ge=1)
    """Largest size of one unpacked member, in bytes."""
    max_ratio: float = Field(50.0, ge=1)
    """Largest ratio of unpacked to packed size. MIDI and motion capture reach 4, decompression bombs 1000."""


class _Member(NamedTuple):
    name: str
    size: int
    open: Callable[[], IO[bytes]]


class Unpacked(NamedTuple):
    files: int
    bytes: int


def unpack(
    archive: Path,
    folder: Path,
    below: str,
    suffixes: tuple[str, ...],
    limits: Limits,
    approve: Callable[[Path, Unpacked], None] = lambda root, done: None,
) -> Unpacked:
    """Unpack the members of a .tar.gz or a .zip that lie below `below` and end in one of `suffixes` into `folder`.

    `folder` must not exist. Members are unpacked beside it; it appears once `approve`, which may raise, has checked all
    of them. The rest of a killed attempt is removed first.

    Raises:
        DriftworkError: the archive is broken, cut short, hostile or over a limit, contains nothing to unpack, or fills
            the disk.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        done = _fill(archive, temporary, below, suffixes, limits)
        os.sync()  # one call for all files: a cut of power after the rename must not leave them empty
        approve(temporary, done)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(folder, error.strerror or error) from None
        raise
    os.replace(temporary, folder)
    return done


def _fill(archive: Path, root: Path, below: str, suffixes: tuple[str, ...], limits: Limits) -> Unpacked:
    taken = Unpacked(0, 0)
    known: set[str] = set()
    read = _zip_members if archive.suffix == ".zip" else _tar_members
    with _readable(archive):
        for member in _within(read(archive, limits), limits, archive.stat().st_size):
            path = _checked(member.name)
            if str(path) in known:
                raise _RefusedError(f"{printable(member.name)}: occurs twice")
            known.add(str(path))
            if not path.is_relative_to(below) or path.suffix.lower() not in suffixes:
                continue
            if taken.files % 256 == 0 and shutil.disk_usage(root).free < _SPARE_DISK + limits.max_file_bytes:
                raise DriftworkError(
                    f"{root.parent}: the disk is full after {taken.files} files of {archive.name}; free space, "
                    "and fetch again"
                )
            _write(member, root / path.relative_to(below))
            taken = Unpacked(taken.files + 1, taken.bytes + member.size)
        if not taken.files:
            raise _RefusedError(
                f"holds no {' or '.join(suffixes)} below {below}/, in {len(known)} members",
                "correct below and suffixes, or fetch another archive",
            )
    return taken


def _within(members: Iterator[_Member], limits: Limits, packed: int) -> Iterator[_Member]:
    """Yield the members, up to the first one that breaks a limit."""
    total, ceiling = 0, limits.max_ratio * max(packed, 4096)
    for count, member in enumerate(members, start=1):
        total += member.size
        name = printable(member.name)
        if count > limits.max_files:
            raise _RefusedError(f"{name}: more than max_files={limits.max_files} members", _RAISE_LIMIT)
        if member.size > limits.max_file_bytes:
            too_large = f"{name}: {member.size} bytes, more than max_file_bytes={limits.max_file_bytes}"
            raise _RefusedError(too_large, _RAISE_LIMIT)
        if total > limits.max_bytes:
            too_large = f"{name}: {total} bytes up to here, more than max_bytes={limits.max_bytes}"
            raise _RefusedError(too_large, _RAISE_LIMIT)
        if total > ceiling:
            too_large = (
                f"{name}: {total} bytes up to here, more than {limits.max_ratio:g} times the archive (max_ratio)"
            )
            raise _RefusedError(too_large, _RAISE_LIMIT)
        yield member


def _write(member: _Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with member.open() as source, target.open("xb") as handle:
        while piece := source.read(_PIECE):
            written += len(piece)
            if written > member.size:
                break
            handle.write(piece)
    if written != member.size:
        raise _RefusedError(f"{printable(member.name)}: its size differs from the {member.size} bytes in its header")


class _RefusedError(Exception):
    """Error for an archive that is not unpacked: the reason and the cure. The caller puts the archive's name first."""

    def __init__(self, reason: str, cure: str = "delete the archive and fetch it again") -> None:
        super().__init__(f"{reason}; {cure}")


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise DriftworkError(f"{archive}: {error}") from None
    except (
        FileExistsError,
        NotADirectoryError,
        IsADirectoryError,
    ) as error:  # one name to this file system
        raise DriftworkError(
            f"{archive}: {Path(error.filename).name}: occurs twice; delete the archive and fetch it again"
        ) from None
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DriftworkError(
            f"{archive}: broken or cut short: {printable(reason)}; delete the archive and fetch it again"
        ) from None


def _checked(name: str) -> PurePosixPath:
    """Return the name as a path that stays below its target folder."""
    parts = name.split("/")
    if not name or name.startswith(("/", "~")) or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise _RefusedError(f"{printable(name)!r}: is not a relative path")
    if ".." in parts or any(ord(char) < 32 or ord(char) == 127 for char in name):
        raise _RefusedError(f"{printable(name)!r}: leads out of the folder, or contains control characters")
    if len(os.fsencode(name)) > 1024 or max(len(os.fsencode(part)) for part in parts) > 255 or len(parts) > 32:
        raise _RefusedError(f"{printable(name)[:80]!r}...: the name is too long")
    return PurePosixPath(name)


def _tar_members(archive: Path, limits: Limits) -> Iterator[_Member]:
    """Yield the files in the order of the archive.

    Reading is limited by a `_Meter`, so that a header that claims gigabytes is refused before they are read."""
    with gzip.open(archive, "rb") as plain:
        meter = _Meter(plain)
        with tarfile.open(fileobj=meter, mode="r|") as tar:  # type: ignore[call-overload]
            folders = 0
            while (entry := tar.next()) is not None:
                tar.members.clear()  # tarfile would keep a kilobyte of each
                content = 0
                if entry.isdir():
                    folders += 1
                    _checked(entry.name)
                    if folders > limits.max_files:
                        raise _RefusedError(f"more than max_files={limits.max_files} folders", _RAISE_LIMIT)
                elif not entry.isreg() or entry.issparse() or entry.size < 0:
                    raise _RefusedError(f"{printable(entry.name)}: is a link, a device or a sparse file")
                else:
                    content = entry.size
                    meter.limit = entry.offset_data + content + _HEADERS  # what is read ahead included
                    yield _Member(entry.name, content, lambda entry=entry: _content(tar, entry))  # type: ignore[misc]
                meter.limit = entry.offset_data + content + _HEADERS
        while meter.read(_PIECE):  # gzip's own check of the whole stands at its end
            pass
        if meter.tail != _END_OF_TAR:
            raise _RefusedError("cut short: the two empty blocks at the end are missing")


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    handle = tar.extractfile(entry)
    if handle is None:
        raise _RefusedError(f"{printable(entry.name)}: has no content")
    return handle


class _Meter:
    """A stream that returns no byte beyond `limit`, and stores the last 1024 bytes."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._given = 0
        self.limit = _HEADERS
        self.tail = b""

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._given += len(piece)
        if self._given > self.limit:
            raise _RefusedError(f"a header, or padding, of more than {_HEADERS} bytes")
        self.tail = (self.tail + piece)[-len(_END_OF_TAR) :]
        return piece


def _zip_members(archive: Path, limits: Limits) -> Iterator[_Member]:
    _check_directory(archive, limits)
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            if entry.is_dir():
                _checked(entry.filename)
                continue
            mode = entry.external_attr >> 16
            if (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)) or entry.flag_bits & 1:
                raise _RefusedError(f"{printable(entry.filename)}: is a link, a device or encrypted")
            yield _Member(entry.filename, entry.file_size, lambda entry=entry: source.open(entry))  # type: ignore[misc]


def _check_directory(archive: Path, limits: Limits) -> None:
    """Refuse a directory that is too large before zipfile reads it, by the end record or its ZIP64 form."""
    with archive.open("rb") as handle:
        end = handle.seek(0, io.SEEK_END)
        handle.seek(max(0, end - 65_557))
        tail = handle.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            raise _RefusedError("no zip archive, or cut short: its end record is missing")
        count, size = struct.unpack_from("<HI", tail, at + 10)
        if (count == 0xFFFF or size == 0xFFFFFFFF) and at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
            handle.seek(struct.unpack_from("<Q", tail, at - 12)[0])
            count, size = struct.unpack_from("<32xQQ", handle.read(56))
    if count > 2 * limits.max_files or size > 2 * limits.max_files * _DIRECTORY_ENTRY:
        raise _RefusedError(f"{count} members, and a directory of {size} bytes, over max_files={limits.max_files}")
