"""Where data may lie: a folder, or a URL of whatever fsspec speaks to, such as s3://bucket/lakh.

The only module that touches fsspec, which is loaded when a URL is first used. Objects are written whole or not at all,
as object stores do; what fails for a while is tried again, with waits that double, for seconds and not for minutes.
"""

import errno
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import PlainValidator

from driftwork.errors import DriftworkError
from driftwork.files import printable

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)")
_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Protocol -> the extra of ours that brings it."""
_ATTEMPTS = 4
_WAIT_S = 1.0
"""Before the second attempt."""
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 1}}}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3}
"""Attempts are ours to count: together with those of botocore and of s3fs a silent store would take half an hour."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""No store answers so; the file on this machine does."""


def place(value: Any) -> Path | str:
    """A URL as it is, but for a `/` at its end; all else, and file:// too, is a folder."""
    if not isinstance(value, str | Path):
        raise ValueError("is neither a folder nor a URL")
    url = _URL.fullmatch(str(value)) if isinstance(value, str) else None
    if url is None:
        return Path(value)
    if url[1] == "file":
        return Path(url[2])
    if "/" not in url[2].rstrip("/"):
        raise ValueError("names no folder of a store; give PROTOCOL://BUCKET/FOLDER")
    return str(value).rstrip("/")


Place = Annotated[Path | str, PlainValidator(place)]
"""A folder, or the URL of one. A field of a config."""


def name_of(where: Place) -> str:
    """The last part."""
    return where.resolve().name if isinstance(where, Path) else where.rpartition("/")[2]


def shards_among(names: Iterable[str]) -> set[str]:
    """Of the names of objects below a place, those of shards; what lies deeper is another's."""
    return {name for name in names if name.endswith(".tar") and "/" not in name}


class MissingError(DriftworkError):
    """There is no such object, or no such bucket."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class Store(NamedTuple):
    """The objects below a place. All verbs raise `DriftworkError` that names the object: `MissingError`, or what the
    store refuses, or what did not succeed in several attempts."""

    where: Place

    def fetch(self, name: str, target: Path) -> None:
        """Copy an object to a file, which is left in pieces if that fails."""
        self._tried(name, lambda system, path: system.get_file(path, str(target)), target)

    def read(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory() as scratch:  # not `cat_file`: it asks s3 first, which answers less clearly
            self.fetch(name, Path(scratch, "object"))
            return Path(scratch, "object").read_bytes()

    def put(self, source: Path, name: str) -> None:
        """Copy a file to an object, in the place of one that is there."""
        self._tried(name, lambda system, path: system.put_file(str(source), path), source)

    def write(self, data: bytes, name: str) -> None:
        self._tried(name, lambda system, path: system.pipe_file(path, data))

    def names(self, folder: str = "") -> set[str]:
        """Of all objects below, or below a folder; none where there is nothing."""

        def listed(system: Any, path: str) -> set[str]:
            system.invalidate_cache()
            return {found.removeprefix(f"{path}/") for found in system.find(path) if found.startswith(f"{path}/")}

        try:
            names: set[str] = self._tried(folder, listed)
        except MissingError:
            return set()
        return names

    def remove(self, names: Iterable[str]) -> None:
        """Also where there are none."""
        for name in names:
            with suppress(MissingError):
                self._tried(name, lambda system, path: system.rm_file(path))

    def _tried(self, name: str, work: Callable[[Any, str], Any], file: Path | None = None) -> Any:
        """`work` on the file system and the path of an object there; `file` is what it reads or writes here."""
        url = f"{self.where}/{name}".rstrip("/")
        system, root = self._connected()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work(system, f"{root}/{name}".rstrip("/"))
            except FileNotFoundError as error:
                raise MissingError(url, _said(error)) from None
            except PermissionError as error:
                raise DriftworkError(f"{url}: refused: {_said(error)}") from None
            except Exception as error:  # each implementation has its own
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise DriftworkError(f"{file}: cannot be written: {error.strerror}") from None
                if attempt == _ATTEMPTS:
                    raise DriftworkError(f"{url}: {_said(error)}; given up after {attempt} attempts") from None
                time.sleep(_WAIT_S * 2 ** (attempt - 1))
        raise AssertionError

    def _connected(self) -> tuple[Any, str]:
        import fsspec

        url = _URL.match(str(self.where))
        protocol = url[1] if url else "file"
        try:
            system, root = fsspec.core.url_to_fs(str(self.where), **_OPTIONS.get(protocol, {}))
        except ImportError:
            cure = f"-e '.[{_EXTRAS[protocol]}]'" if protocol in _EXTRAS else _package(protocol)
            raise DriftworkError(f"{self.where}: what speaks {protocol} is not installed: pip install {cure}") from None
        except Exception as error:  # a protocol that nobody knows, and whatever each implementation raises
            raise DriftworkError(f"{self.where}: {_said(error)}") from None
        if protocol in _OPTIONS:
            system.retries = 1  # in s3fs, how often it tries in all
        return system, root.rstrip("/")


def _package(protocol: str) -> str:
    from fsspec.registry import known_implementations

    return str(known_implementations[protocol]["class"]).partition(".")[0]


def _said(error: Exception) -> str:
    """The reason in one line."""
    said = printable(" ".join(str(error).split())) or type(error).__name__
    return said[:1].lower() + said[1:].rstrip(".")
