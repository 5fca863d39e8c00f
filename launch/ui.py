"""`driftwork ui [uri=sqlite:///runs/mlflow.db] [port=5000]`: the MLflow dashboard over a SQLite store, on 127.0.0.1.

The server binds the loopback address only: it has no login.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from launch import entry, store_uri
from launch.signals import sigterm_exits
from models import config_base
from models.config_base import Config
from models.errors import DriftworkError

HOST = "127.0.0.1"
START_S = 60  # the server imports for 5 s on an idle machine, and for much longer beside a training run


class UiConfig(Config):
    uri: store_uri.StoreUri = "sqlite:///runs/mlflow.db"
    """The store to show, as `sqlite:///FILE`."""

    port: int = Field(5000, ge=1, le=65535)
    """The port on 127.0.0.1."""


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C.

    Raises:
        DriftworkError: an unknown key, a store that is not there, a port that is taken, a server that does not start.
    """
    cfg = config_base.build(UiConfig, _overrides(argv), where="driftwork ui")
    uri = store_uri.existing(cfg.uri)
    file = store_uri.database(uri)
    if file is None:
        raise DriftworkError(f"{uri} is a server already: open it in a browser")
    _require_free(cfg.port)
    address = f"http://{HOST}:{cfg.port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(cfg.port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--default-artifact-root", store_uri.artifact_root(file)]
    command += ["--uvicorn-opts", "--log-level warning"]
    with _server(command) as server:
        _wait_until_it_listens(server, cfg.port)
        print(f"{address} shows {file} (Ctrl-C ends it)", flush=True)
        code = server.wait()
    raise DriftworkError(f"the MLflow server ended by itself with exit code {code}")


def _overrides(argv: list[str]) -> dict[str, str]:
    pairs = [argument.partition("=") for argument in argv]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise DriftworkError(f"'{key}{equals}{value}' is not of the form key=value (known here: uri, port)")
    return {key: value for key, _, value in pairs}


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise DriftworkError(f"port={port} is taken; give another, as in port={port + 1}") from None


@contextmanager
def _server(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server in a session of its own: Ctrl-C in the terminal reaches us alone, and we end it and its workers."""
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_DISABLE_TELEMETRY": "true"}
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # half a dozen processes that tracking has no use for
    with sigterm_exits():
        server = subprocess.Popen(command, env={**os.environ, **quiet, **no_jobs}, start_new_session=True)
        try:
            yield server
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    for number, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
        try:
            os.killpg(server.pid, number)
            server.wait(patience_s)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DriftworkError(f"the MLflow server ended at its start with exit code {server.returncode}; see above")
        try:
            socket.create_connection((HOST, port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise DriftworkError(f"the MLflow server does not listen on port {port} after {START_S} s")


if __name__ == "__main__":
    sys.exit(entry.run("ui", main, sys.argv[1:]))
