"""Download one file over HTTP, whole or not at all: resumed, retried, checked against its limits and its hash.

NAME.part         bytes received so far
NAME.part.json    the response that they belong to: address, validator (ETag or date), length
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    ProxyError,
    ReadTimeoutError,
    ResponseError,
)  # fmt: skip

from driftwork.errors import DriftworkError, unwritable
from driftwork.files import sha256
from pipeline.fetch.http_get import Retries, failures, get

_PIECE = 1 << 16
_SPARE_DISK = 64 * 2**20
"""Minimum free space that a download leaves on the disk, in bytes."""
_RAISE_LIMIT = "raise this limit if you trust the server"
_PROGRESS = 2**20
"""Bytes that an attempt must add to reset the count of attempts without progress."""


class Patience(NamedTuple):
    timeout: float = 30.0
    """Maximum time to connect, and between two pieces of a response, in seconds."""
    slowest: float = 100.0
    """Minimum speed of a response, in bytes per second over `timeout` seconds. A slower one counts as stalled."""
    attempts: int = 6
    """Maximum number of consecutive requests without progress."""
    wait: float = 1.0
    """Wait after the first failed request, in seconds; it doubles with each further failure."""
    longest_wait: float = 60.0
    """Longest wait, in seconds. A larger Retry-After of the server ends the download."""


class _BrokenOffError(Exception):
    """Error for a response after which another attempt may succeed. `failed` counts failed requests, with this one."""

    def __init__(self, reason: str, failed: int = 1) -> None:
        super().__init__(reason)
        self.failed = failed


def download(
    url: str,
    target: Path,
    max_bytes: int,
    expected: str | None = None,
    patience: Patience = Patience(),  # noqa: B008 - immutable
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Fetch `url` to `target`, which appears when it is complete, and return its SHA-256.

    A killed download resumes if the server confirms that the file is still the same. `seen` is called with the number
    of received bytes and that of all bytes, which is 0 if the server does not give it.

    Raises:
        DriftworkError: a response over `max_bytes`, a hash that is not `expected`, no room, a redirect that leads in
            circles or away from HTTP, a refusal, or no success in `patience.attempts` attempts without progress.
    """
    part = _Part(target)
    failed, furthest = 0, part.size
    while failed < patience.attempts:
        retries = Retries.at_most(patience.attempts - 1 - failed, patience.wait, patience.longest_wait)
        try:
            _attempt(url, part, max_bytes, expected, patience, retries, seen)
            return _finish(url, part, expected)
        except MaxRetryError as error:
            reason, failed = _reason(error.reason, patience), patience.attempts
            break
        except _BrokenOffError as error:
            reason = str(error)
            failed = 0 if part.size >= furthest + _PROGRESS else failed + error.failed
        furthest = max(furthest, part.size)
        if failed < patience.attempts:
            time.sleep(min(patience.wait * 2**failed / 2, patience.longest_wait))
    cure = f"{part.size} bytes are kept; call again to continue from them" if part.size else "call again later"
    raise DriftworkError(f"{url}: {reason}; given up after {failed} attempts; {cure}")


def _reason(error: Exception | None, patience: Patience) -> str:
    """Return the reason for a missing or unfinished response, in one line."""
    if isinstance(error, ReadTimeoutError):
        return f"no response for {patience.timeout:g} s"
    if isinstance(error, ResponseError | _BrokenOffError):
        return str(error)
    if isinstance(error, ConnectTimeoutError | ProxyError):
        return f"cannot be reached: {error.__cause__ or error}"
    return f"the response broke off: {error}"


class _Part:
    """The unfinished file, and the note on the response that it belongs to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.file = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def note(self) -> dict[str, Any]:
        try:
            found = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def begin(self, url: str, validator: str | None, total: int) -> None:
        self.file.write_bytes(b"")
        self._note.write_text(json.dumps({"url": url, "validator": validator, "total": total}))

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def publish(self) -> None:
        os.replace(self.file, self.target)
        self._note.unlink(missing_ok=True)


def _attempt(
    url: str,
    part: _Part,
    max_bytes: int,
    expected: str | None,
    patience: Patience,
    retries: Retries,
    seen: Callable[[int, int], None],
) -> None:
    """Append the body of one response to the part, and return once the file is complete."""
    note = part.note()
    start = part.size if note.get("url") == url and note.get("validator") else 0
    if start and start == note.get("total"):
        return
    headers = {"User-Agent": "driftwork", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(note["validator"])}
    with get(url, headers, patience.timeout, retries) as answer:
        try:
            start, total = _begin(url, answer, part, start, note)
            if not total and expected is None and not getattr(answer, "chunked", False):
                raise DriftworkError(
                    f"{url}: the server does not give the length of the file, and the config has no hash; set sha256"
                )
            _check_room(url, part.file.parent, start, total, max_bytes)
            _copy(url, answer, part.file, start, total, max_bytes, patience, seen)
        except (HTTPError, _BrokenOffError) as error:
            raise _BrokenOffError(_reason(error, patience), 1 + failures(answer)) from None
        except OSError as error:
            raise unwritable(part.file, error.strerror or error) from None


def _begin(
    url: str, answer: urllib3.BaseHTTPResponse, part: _Part, start: int, note: dict[str, Any]
) -> tuple[int, int]:
    """Return the byte that the response begins at, and the length of the file, or 0 if it is not known."""
    if answer.status in (206, 416) and start:
        total = _resumed(answer.headers, start, note) if answer.status == 206 else None
        if total is not None:
            return start, total
        part.discard()
        raise _BrokenOffError("the file has changed since the download began")
    if answer.status != 200:
        raise DriftworkError(f"{url}: the server responded {answer.status} {answer.reason} and sent no file; check url")
    total = _length(answer.headers)  # the whole file: it changed, or the server knows no ranges
    part.begin(url, _validator(answer.headers), total)
    return 0, total


def _copy(
    url: str,
    answer: urllib3.BaseHTTPResponse,
    file: Path,
    start: int,
    total: int,
    max_bytes: int,
    patience: Patience,
    seen: Callable[[int, int], None],
) -> None:
    done, began, at_began = start, time.monotonic(), start
    with file.open("r+b") as handle:
        handle.truncate(start)
        handle.seek(start)
        while piece := answer.read1(_PIECE):
            done += len(piece)
            if done > max_bytes:
                handle.close()
                file.unlink()
                raise DriftworkError(f"{url}: more than max_bytes={max_bytes}; {_RAISE_LIMIT}")
            handle.write(piece)
            seen(done, total)
            now = time.monotonic()
            if now - began > patience.timeout:
                if done - at_began < patience.slowest * patience.timeout:
                    raise _BrokenOffError(f"stalled: {done - at_began} bytes in {now - began:.0f} s")
                began, at_began = now, done
        _to_disk(handle)
    if total and done < total:
        raise _BrokenOffError(f"the response ended after {done} of {total} bytes")


def _finish(url: str, part: _Part, expected: str | None) -> str:
    found = sha256(part.file)
    if expected is not None and found != expected:
        part.discard()
        raise DriftworkError(
            f"{url}: sha256 {found}, expected {expected}: altered on its way, or changed by the publisher; "
            "try again, or correct the hash in configs/fetch or fetch.lock.json"
        )
    part.publish()
    return found


def _resumed(headers: Mapping[str, str], start: int, note: dict[str, Any]) -> int | None:
    """Return the length of the whole file, or None if the piece does not continue the part."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != start:
        return None
    total = 0 if found[2] == "*" else int(found[2])
    changed = total != note["total"] or _validator(headers) not in (None, note["validator"])
    return None if changed else total


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return the value of If-Range: a strong ETag (RFC 9110, 13.1.5), or the date of the last change."""
    tag = headers.get("ETag", "").strip()
    if tag.startswith('"'):
        return tag
    return headers.get("Last-Modified") or None


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isdecimal() else 0


def _check_room(url: str, folder: Path, start: int, total: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise DriftworkError(f"{url}: {total} bytes, more than max_bytes={max_bytes}; {_RAISE_LIMIT}")
    free = shutil.disk_usage(folder).free
    if total - start > free - _SPARE_DISK:
        raise DriftworkError(
            f"{folder}: {free / 1e9:.2f} GB are free, and {url} needs {(total - start) / 1e9:.2f} GB more; free space"
        )


def _to_disk(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())
