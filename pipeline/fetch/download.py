"""One file over HTTP, whole or not at all: resumed, retried, held to its limits and to its hash.

NAME.part         what has come so far
NAME.part.json    which answer it is a piece of: address, validator (ETag or date), length
"""

import email.utils
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from driftwork.errors import DriftworkError
from driftwork.files import sha256
from pipeline.fetch.http_get import get

_PIECE = 1 << 16
_SPARE_DISK = 64 * 2**20
"""Bytes that stay free on the disk."""
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers that a second request may better."""
_PROGRESS = 2**20
"""Bytes that an attempt must add, or finish, for the count of fruitless ones to begin anew."""


class Patience(NamedTuple):
    timeout: float = 30.0
    """Seconds to connect, and between two pieces of an answer."""
    slowest: float = 100.0
    """Bytes a second, over `timeout` seconds, under which an answer counts as stalled."""
    attempts: int = 6
    """In a row without progress."""
    wait: float = 1.0
    """Seconds before the second attempt; they double."""
    longest_wait: float = 60.0
    """Also the longest that a server's Retry-After is obeyed; one that asks for more is given up."""


class _TransientError(Exception):
    """Worth another attempt, after `wait` seconds if the server named them."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _StaleError(Exception):
    """What has come so far is a piece of another file: begin anew."""


def download(
    url: str,
    target: Path,
    max_bytes: int,
    expected: str | None = None,
    patience: Patience = Patience(),  # noqa: B008 - immutable
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Fetch `url` to `target`, which appears when it is complete; returns its SHA-256.

    A killed download goes on where it was if the server can say that the file is still the same one. `seen` is told
    bytes done and in all, 0 where the server does not say.

    Raises:
        DriftworkError: an answer over `max_bytes`, a hash that is not `expected`, no room, a redirect that leads in
            circles or away from HTTP, a refusal, or no success in `patience.attempts` attempts without progress.
    """
    part = _Part(target)
    fruitless, furthest = 0, part.size
    while True:
        try:
            _attempt(url, part, max_bytes, expected, patience, seen)
            return _finish(url, part, expected)
        except _StaleError as error:
            part.discard()
            reason, wait = str(error), None
        except _TransientError as error:
            reason, wait = str(error), error.wait
        fruitless = 0 if part.size >= furthest + _PROGRESS else fruitless + 1
        furthest = max(furthest, part.size)
        if fruitless >= patience.attempts:
            kept = f"; {part.size} bytes are kept, and another call goes on from them" if part.size else ""
            raise DriftworkError(f"{url}: {reason}; given up after {fruitless} attempts{kept}")
        if wait is not None and wait > patience.longest_wait:
            raise DriftworkError(f"{url}: {reason}, and asks to come back in {wait:.0f} s")
        time.sleep(min(wait if wait is not None else patience.wait * 2**fruitless / 2, patience.longest_wait))


class _Part:
    """The unfinished file and the note on which answer it belongs to."""

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
    seen: Callable[[int, int], None],
) -> None:
    """One request, and what it brings written to the part. Returns when the file is there in full."""
    note = part.note()
    start = part.size if note.get("url") == url and note.get("validator") else 0
    if start and start == note.get("total"):
        return
    headers = {"User-Agent": "driftwork", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(note["validator"])}
    try:
        with get(url, headers, patience.timeout) as answer:
            if answer.status == 206 and start:
                total = _resumed(answer.headers, start, note)
            elif answer.status == 200:  # the whole file: it changed, or the server knows no ranges
                start, total = 0, _length(answer.headers)
                part.begin(url, _validator(answer.headers), total)
            else:
                raise DriftworkError(f"{url}: the server answers {answer.status} {answer.reason}, and no file")
            if not total and expected is None and not answer.chunked:
                raise DriftworkError(f"{url}: the server does not say how long the file is, and no hash says either")
            _check_room(url, part.file.parent, start, total, max_bytes)
            _copy(answer, part.file, start, total, max_bytes, patience, seen)
    except urllib.error.HTTPError as error:
        _explain(error, url, bool(start))
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DriftworkError(f"{url}: {error.reason.verify_message}, the certificate cannot be trusted") from None
        raise _TransientError(f"cannot be reached: {error.reason}") from None
    except TimeoutError:
        raise _TransientError(f"no answer for {patience.timeout:g} s") from None
    except (http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        raise _TransientError(f"the answer broke off: {error or type(error).__name__}") from None
    except OSError as error:
        raise DriftworkError(f"{part.file}: cannot be written: {error.strerror or error}") from None


def _copy(
    answer: Any,
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
                raise DriftworkError(f"{answer.url}: more than max_bytes={max_bytes}")
            handle.write(piece)
            seen(done, total)
            now = time.monotonic()
            if now - began > patience.timeout:
                if done - at_began < patience.slowest * patience.timeout:
                    raise _TransientError(f"stalled: {done - at_began} bytes in {now - began:.0f} s")
                began, at_began = now, done
        _to_disk(handle)
    if total and done < total:
        raise _TransientError(f"the answer ended after {done} of {total} bytes")


def _finish(url: str, part: _Part, expected: str | None) -> str:
    found = sha256(part.file)
    if expected is not None and found != expected:
        part.discard()
        raise DriftworkError(
            f"{url}: sha256 {found}, expected {expected}: altered on its way, or changed by the publisher "
            "(the hash stands in configs/fetch, or in fetch.lock.json)"
        )
    part.publish()
    return found


def _resumed(headers: Message, start: int, note: dict[str, Any]) -> int:
    """The length of the whole file. Raises `_StaleError` for a piece that does not fit what is there."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != start:
        raise _StaleError("the server sent another piece than was asked for")
    total = 0 if found[2] == "*" else int(found[2])
    validator = _validator(headers)
    if total != note["total"] or (validator is not None and validator != note["validator"]):
        raise _StaleError("the file changed between two attempts")
    return total


def _validator(headers: Message) -> str | None:
    """What If-Range takes: a strong ETag (RFC 9110, 13.1.5), or the date of the last change."""
    tag = headers.get("ETag", "").strip()
    if tag.startswith('"'):
        return tag
    return headers.get("Last-Modified") or None


def _length(headers: Message) -> int:
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isdecimal() else 0


def _check_room(url: str, folder: Path, start: int, total: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise DriftworkError(f"{url}: {total} bytes, more than max_bytes={max_bytes}")
    free = shutil.disk_usage(folder).free
    if total - start > free - _SPARE_DISK:
        raise DriftworkError(
            f"{folder}: {free / 1e9:.2f} GB are free, and {url} needs {(total - start) / 1e9:.2f} GB more"
        )


def _explain(error: urllib.error.HTTPError, url: str, resuming: bool) -> NoReturn:
    error.close()
    if error.code == 416 and resuming:
        raise _StaleError("the file is shorter than what is here")
    if error.code not in _PASSING:
        raise DriftworkError(f"{url}: the server answers {error.code} {error.reason}") from None
    wait = _retry_after(error.headers.get("Retry-After", "").strip())
    raise _TransientError(f"the server answers {error.code} {error.reason}", wait)


def _retry_after(text: str) -> float | None:
    """Seconds, from a number of them or from a date (RFC 9110, 10.2.3)."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _to_disk(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())
