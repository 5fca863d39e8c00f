"""A GET that goes where it should: to HTTP(S) alone, without a password, after few redirects, never from HTTPS back.

Python's own urllib, because a client that only MLflow happens to bring cannot be counted on where data are fetched.
"""

import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from driftwork.errors import DriftworkError

_REDIRECTS = 5


def get(url: str, headers: dict[str, str], timeout: float) -> Any:
    """The answer, as urllib gives it.

    Raises:
        DriftworkError: a redirect in circles or to where none may lead.
        urllib.error.HTTPError: an answer that is no success. OSError, HTTPException: none.
    """
    here = url
    for _ in range(_REDIRECTS + 1):
        try:
            return _OPENER.open(urllib.request.Request(here, headers=headers), timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code not in (301, 302, 303, 307, 308):
                raise
            error.close()
            there = urllib.parse.urljoin(here, error.headers.get("Location", ""))
        check_address(there, f"{url}: redirects to {there}")
        if here.startswith("https:") and not there.startswith("https:"):
            raise DriftworkError(f"{url}: redirects to {there}, which anyone on the way can alter")
        here = there
    raise DriftworkError(f"{url}: redirects more than {_REDIRECTS} times, the last to {here}")


def check_address(url: str, what: str) -> None:
    """Raises `DriftworkError` for anything but http(s)://host/... without user and password."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DriftworkError(f"{what}: must be http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise DriftworkError(f"{what}: holds a user name or a password; none is sent")


def _opener() -> urllib.request.OpenerDirector:
    """Only what is needed: urllib's own also knows file:, ftp: and data:, and follows redirects by itself."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _opener()
