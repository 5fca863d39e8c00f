"""Check the tracking store without MLflow, whose import takes seconds and which may itself be broken."""

import http.client
import importlib.util
import os
import re
import shlex
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from driftwork.errors import DriftworkError
from driftwork.files import require_room
from launch.checks.finding import Finding, error, ok, warning
from launch.tracker import login, store_uri

_PATIENCE_S = 2.0
_LONG_PATIENCE_S = 10.0
"""Seconds to wait for a server that is up, but may have to look up a password first."""
_REFUSED = (401, 403)
_HERE = "tracking"


def tracking(uri: str | None) -> Finding:
    """Check whether a run could write to the store at `uri`."""
    if uri is None:
        return ok(_HERE, "tracking.uri=null: runs are not tracked")
    try:
        file = store_uri.database(uri)
    except DriftworkError as problem:
        message, _, cure = str(problem).partition("; ")
        return error(_HERE, message.removeprefix("tracking store "), cure)
    if file is None:
        return _server(uri)
    return _file(file) if file.exists() else _new(file)


def require(uri: str | None) -> None:
    """Raise `DriftworkError`, within seconds, if no run could write to the store."""
    found = tracking(uri)
    if found.level == "error":
        raise DriftworkError(f"tracking store {found.message}; {found.cure}")


def _server(uri: str) -> Finding:
    try:
        _ask(uri, "/health", _PATIENCE_S)  # fails at once if nothing listens
    except urllib.error.HTTPError as problem:
        if problem.code not in _REFUSED:
            return error(
                _HERE,
                f"{uri} responds with status {problem.code}",
                "check that it is an MLflow server, and any proxy in front of it",
            )
    except (OSError, http.client.HTTPException) as problem:
        return _silent(uri, problem)
    try:
        _ask(uri, "/api/2.0/mlflow/experiments/search?max_results=1", _LONG_PATIENCE_S)
    except urllib.error.HTTPError as problem:
        return _refused(uri, problem.code)
    except TimeoutError:
        return warning(_HERE, f"{uri} takes over {_LONG_PATIENCE_S:g} s to answer", "reduce the server's load")
    except (OSError, http.client.HTTPException) as problem:
        return _silent(uri, problem)
    return ok(_HERE, f"{uri} answers")


def _ask(uri: str, path: str, patience_s: float) -> None:
    request = urllib.request.Request(uri.rstrip("/") + path, headers=login.headers(uri))
    certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None
    context = ssl.create_default_context(cafile=certificate) if uri.startswith("https:") else None
    if context and os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(request, timeout=patience_s, context=context):
        pass


def _refused(uri: str, code: int) -> Finding:
    if code not in _REFUSED:
        return error(
            _HERE,
            f"{uri} responds with status {code}",
            "check that it is an MLflow server, and any proxy in front of it",
        )
    if any(os.environ.get(name) for name in login.OTHERS):
        return ok(_HERE, f"{uri} answers; only MLflow can log in")
    message = "refuses the login" if login.headers(uri) else "requires a login"
    return error(_HERE, f"{uri} {message} ({code})", f"export {login.USER} and {login.PASSWORD}, or {login.TOKEN}")


def _silent(uri: str, problem: Exception) -> Finding:
    reason = getattr(problem, "reason", None) or problem
    if isinstance(reason, ssl.SSLCertVerificationError):  # MLflow has its own list of certificates
        cure = "if MLflow refuses it too: export MLFLOW_TRACKING_SERVER_CERT_PATH=FILE"
        return warning(_HERE, f"{uri} presents a certificate that this machine does not trust", cure)
    cure = "start the server, or set tracking.uri=sqlite:///runs/mlflow.db"
    return error(_HERE, f"{uri} does not answer: {str(reason).strip()}", cure)


def _new(file: Path) -> Finding:
    folder = file.parent
    while not folder.is_dir():
        folder = folder.parent
    try:
        require_room(folder)
    except OSError as problem:
        message = f"{file} cannot be created: {folder}: {problem.strerror}"
        return error(_HERE, message, "set tracking.uri=sqlite:///FILE to a file that you can write to")
    return ok(_HERE, f"{file} is created by the first run")


def _file(file: Path) -> Finding:
    for path in (file, file.parent):  # SQLite writes a journal beside the file; it can read without write access
        if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return error(_HERE, f"{path} is not writable", "chmod u+w it, or set tracking.uri=sqlite:///FILE")
    try:
        require_room(file.parent)
    except OSError as problem:
        return error(
            _HERE, f"{file} cannot grow: {problem.strerror}", "free some space, or set tracking.uri=sqlite:///FILE"
        )
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=_PATIENCE_S)) as database:
            database.isolation_level = None
            database.execute("BEGIN IMMEDIATE")  # the first statement of a writer
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            row = (
                database.execute("SELECT version_num FROM alembic_version").fetchone()
                if "alembic_version" in tables
                else None
            )
            database.execute("ROLLBACK")
    except sqlite3.DatabaseError as problem:
        return _unusable(file, str(problem))
    if tables and row is None:
        return error(_HERE, f"{file} is not an MLflow store", "give another tracking.uri=sqlite:///FILE")
    return _schema(file, row[0] if row else None)


def _unusable(file: Path, problem: str) -> Finding:
    if "locked" in problem:
        cure = "end the process that holds it (fuser shows which), or let runs share an MLflow server"
        return warning(_HERE, f"{file} has been locked for {_PATIENCE_S:g} s", cure)
    return error(_HERE, f"{file}: {problem}", "move it away; the next run creates a new one")


def _schema(file: Path, version: str | None) -> Finding:
    """Compare the schema version with that of the installed MLflow, which refuses any other."""
    known = dict(_revisions())
    newest = known.keys() - set(known.values())
    if version is None or not known or version in newest:
        return ok(_HERE, f"{file}, schema {version or 'not made yet'}")
    if version in known:
        return error(
            _HERE,
            f"{file} was written by an older MLflow",
            f"copy it, then: mlflow db upgrade {shlex.quote(f'sqlite:///{file}')}",
        )
    return error(
        _HERE, f"{file} was written by a newer MLflow (schema {version})", "install that MLflow, or use another file"
    )


def _revisions() -> Iterator[tuple[str, str | None]]:
    """Yield each schema revision of the installed MLflow, with the revision before it."""
    found = importlib.util.find_spec("mlflow")
    for folder in (found.submodule_search_locations or []) if found else []:
        for path in Path(folder, "store/db_migrations/versions").glob("*.py"):
            text = path.read_text(encoding="utf-8")
            revision = re.search(r'^revision = "(\w+)"', text, re.M)
            before = re.search(r'^down_revision = "(\w+)"', text, re.M)
            if revision:
                yield revision[1], before and before[1]
