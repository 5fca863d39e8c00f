"""Places of data: a folder, or a URL of any protocol of fsspec, such as s3://bucket/lakh.

This is the only module that uses fsspec, which is imported when a URL is first used. Objects are written atomically, as
object stores do. Operations that fail temporarily are repeated with doubling waits, for seconds and not for minutes.
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

from driftwork.errors import DriftworkError, unwritable
from driftwork.files import printable

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)")
_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extra of this package that installs each protocol."""
_ATTEMPTS = 4
_WAIT_S = 1.0
"""Wait before the second attempt, in seconds."""
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"total_max_attempts": 1}}}
_OPTIONS: dict[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3}
"""Options per protocol that disable the retries of botocore and s3fs. Multiplied with ours, attempts at a silent store
would take half an hour."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Error numbers of local disks. No store returns them, so the file on this machine is at fault."""


def place(value: Any) -> Path | str:
    """Return a URL without its final `/`. Anything else, and file://, becomes the path of a folder."""
    if not isinstance(value, str | Path):
        raise ValueError("is neither a folder nor a URL; give FOLDER or PROTOCOL://BUCKET/FOLDER")
    url = _URL.fullmatch(str(value)) if isinstance(value, str) else None
    if url is None:
        return Path(value)
    if url[1] == "file":
        return Path(url[2])
    if "/" not in url[2].rstrip("/"):
        raise ValueError("names no folder of a store; give PROTOCOL://BUCKET/FOLDER")
    return str(value).rstrip("/")


Place = Annotated[Path | str, PlainValidator(place)]
"""Type of a config field that takes a folder, or the URL of one."""


def name_of(where: Place) -> str:
    """Return the last part of a path or URL."""
    return where.resolve().name if isinstance(where, Path) else where.rpartition("/")[2]


def shards_among(names: Iterable[str]) -> set[str]:
    """Return the names of shards among those of objects below a place. Objects in subfolders belong to other data."""
    return {name for name in names if name.endswith(".tar") and "/" not in name}


class MissingError(DriftworkError):
    """Error for an object or a bucket that does not exist."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class Store(NamedTuple):
    """The objects below a URL. All methods raise a `DriftworkError` that names the object: `MissingError`, or the
    reason why the store refuses or several attempts failed."""

    where: Place

    def fetch(self, name: str, target: Path) -> None:
        """Copy an object to a file, which stays incomplete on failure."""
        self._tried(name, lambda system, path: system.get_file(path, str(target)), target)

    def read(self, name: str) -> bytes:
        with (
            tempfile.TemporaryDirectory() as scratch
        ):  # not `cat_file`, whose first request to s3 has less clear errors
            self.fetch(name, Path(scratch, "object"))
            return Path(scratch, "object").read_bytes()

    def put(self, source: Path, name: str) -> None:
        """Copy a file to an object, which is replaced if it exists."""
        self._tried(name, lambda system, path: system.put_file(str(source), path), source)

    def write(self, data: bytes, name: str) -> None:
        self._tried(name, lambda system, path: system.pipe_file(path, data))

    def names(self, folder: str = "") -> set[str]:
        """Return the names of all objects below the URL, or below a folder of it; empty if there are none."""

        def listed(system: Any, path: str) -> set[str]:
            system.invalidate_cache()
            return {found.removeprefix(f"{path}/") for found in system.find(path) if found.startswith(f"{path}/")}

        try:
            names: set[str] = self._tried(folder, listed)
        except MissingError:
            return set()
        return names

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; missing ones are ignored."""
        for name in names:
            with suppress(MissingError):
                self._tried(name, lambda system, path: system.rm_file(path))

    def _tried(self, name: str, work: Callable[[Any, str], Any], file: Path | None = None) -> Any:
        """Call `work` with the file system and the path of an object, in several attempts.

        `file` is the local file that `work` reads or writes."""
        url = f"{self.where}/{name}".rstrip("/")
        system, root = self._connected()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work(system, f"{root}/{name}".rstrip("/"))
            except FileNotFoundError as error:
                raise MissingError(url, _reason(error)) from None
            except PermissionError as error:
                raise DriftworkError(f"{url}: refused: {_reason(error)}; check the credentials") from None
            except Exception as error:  # each implementation raises its own errors
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise unwritable(file, error.strerror) from None
                if attempt == _ATTEMPTS:
                    raise DriftworkError(
                        f"{url}: {_reason(error)}; given up after {attempt} attempts; try again later"
                    ) from None
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
            raise DriftworkError(
                f"{self.where}: support for {protocol} is not installed; run pip install {cure}"
            ) from None
        except Exception as error:  # an unknown protocol, or any error of an implementation
            raise DriftworkError(f"{self.where}: {_reason(error)}; check the URL") from None
        if protocol in _OPTIONS:
            system.retries = 1  # the total number of attempts of s3fs
        return system, root.rstrip("/")


def _package(protocol: str) -> str:
    from fsspec.registry import known_implementations

    return str(known_implementations[protocol]["class"]).partition(".")[0]


def _reason(error: Exception) -> str:
    """Return the reason of an error in one line."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
