"""HTTP GET by urllib3, with its retries and redirects, and a check of the targets of redirects."""

import ssl
import urllib.parse
import urllib.request
from typing import Any

import urllib3
from urllib3.exceptions import InvalidHeader, MaxRetryError, SSLError

from driftwork.errors import DriftworkError

_REDIRECTS = 5
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which a second request may succeed."""


class _LongWaitError(Exception):
    """Error for a server that requires a longer wait than is allowed."""


class Retries(urllib3.Retry):
    """The retries of urllib3 with limits.

    Redirects may lead only to HTTP(S), without a password, and never from HTTPS to HTTP. A server's Retry-After may be
    at most `backoff_max` seconds."""

    @classmethod
    def at_most(cls, count: int, wait: float, longest_wait: float) -> "Retries":
        """Return a policy of `count` retries. The second follows after 2 `wait` seconds; then the wait doubles."""
        return cls(
            total=None, connect=count, read=count, status=count, other=0, redirect=_REDIRECTS,
            status_forcelist=_PASSING, backoff_factor=wait, backoff_max=longest_wait,
        )  # fmt: skip

    def increment(
        self, method: str | None = None, url: str | None = None, response: Any = None, error: Any = None, *others: Any,
        **named: Any,
    ) -> "Retries":  # fmt: skip
        if url is not None and response is not None and (location := response.get_redirect_location()):
            there = urllib.parse.urljoin(url, location)
            _check_redirect(url, there)
            if self.redirect == 0:
                raise DriftworkError(f"{url}: redirects more than {_REDIRECTS} times, the last to {there}; check url")
        return super().increment(method, url, response, error, *others, **named)

    def get_retry_after(self, response: Any) -> float | None:
        try:
            seconds = super().get_retry_after(response)
        except InvalidHeader:
            return None
        if seconds is not None and seconds > float(self.backoff_max):
            raise _LongWaitError(
                f"the server responded {response.status} and requires a wait of {seconds:.0f} s; fetch again after that"
            )
        return seconds


def get(url: str, headers: dict[str, str], timeout: float, retries: Retries) -> urllib3.BaseHTTPResponse:
    """Request `url` and return the response, of any status, with its body unread.

    Proxies are those of the environment, as in urllib.

    Raises:
        DriftworkError: a redirect that is circular or not allowed, a certificate that cannot be trusted, a server that
            requires too long a wait.
        urllib3.exceptions.MaxRetryError: no response, with the last reason.
    """
    try:
        return _manager(url).request(
            "GET", url, headers={**headers, "Connection": "close"}, timeout=timeout, retries=retries,
            preload_content=False, decode_content=False, enforce_content_length=False,
        )  # fmt: skip
    except _LongWaitError as error:
        raise DriftworkError(f"{url}: {error}") from None
    except MaxRetryError as error:
        cause = error.reason.args[0] if isinstance(error.reason, SSLError) else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DriftworkError(
                f"{url}: {cause.verify_message}, the certificate cannot be trusted; check url and the clock, or name "
                "the authority in SSL_CERT_FILE"
            ) from None
        raise


def failures(answer: urllib3.BaseHTTPResponse) -> int:
    """Return the number of requests that failed before this response."""
    return sum(request.redirect_location is None for request in answer.retries.history) if answer.retries else 0


def check_address(url: str, what: str) -> None:
    """Raise `DriftworkError` for anything but http(s)://host/... without user and password."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DriftworkError(f"{what}: must be http:// or https:// with a host")
    if parts.username is not None or parts.password is not None:
        raise DriftworkError(f"{what}: holds a user name or a password, which is never sent; remove it")


def _check_redirect(here: str, there: str) -> None:
    check_address(there, f"{here}: redirects to {there}")
    if here.startswith("https:") and not there.startswith("https:"):
        raise DriftworkError(f"{here}: redirects to {there}, which anyone on the way can alter; give an https mirror")


def _manager(url: str) -> urllib3.PoolManager:
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    login = urllib.parse.urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=urllib.parse.unquote(login)) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers)
