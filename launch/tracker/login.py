"""The login of a tracking server. It is kept only in environment variables, where MLflow and all processes of a run
find it, and never in a config, a run folder, a log or the tracker itself."""

import base64
import configparser
import netrc
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
OTHERS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH")
"""Variables that select a way of login that only MLflow implements."""


def taken_from(uri: str) -> str:
    """Return `http://USER:PASSWORD@HOST` without its login, which is put into the environment.

    Raises `ValueError` for a login that cannot be separated from the address.
    """
    scheme, _, rest = uri.partition("://")
    login, at, host = rest.rpartition("@")
    if not at:
        return uri
    user, colon, password = login.partition(":")
    if not user or any(char in login for char in "/?#") or not login.isprintable() or " " in login:
        raise ValueError("in a login USER:PASSWORD, write / as %2F, ? as %3F, # as %23 and a blank as %20")
    os.environ[USER] = unquote(user)
    if colon:
        os.environ[PASSWORD] = unquote(password)
    return f"{scheme}://{host}"


def headers(uri: str) -> dict[str, str]:
    """Return the headers that a request to the server at `uri` must have, from the places where MLflow looks for a
    login and in its order."""
    user, password = (os.environ.get(name) or _from_file(name) for name in (USER, PASSWORD))
    if not (user and password) and os.environ.get(TOKEN):
        return {"Authorization": f"Bearer {os.environ[TOKEN]}"}
    if not (user and password):
        user, password = _from_netrc(uri)
    if not (user and password):
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _from_file(name: str) -> str | None:
    """Read MLflow's own file of credentials, as MLflow does."""
    found = configparser.ConfigParser()
    try:
        found.read(Path.home() / ".mlflow/credentials", encoding="utf-8")
        return found.get("mlflow", name.lower(), fallback=None)
    except (configparser.Error, OSError, UnicodeDecodeError):
        return None


def _from_netrc(uri: str) -> tuple[str | None, str | None]:
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(uri).hostname or "")
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError):
        return None, None
    return (found[0], found[2]) if found else (None, None)
