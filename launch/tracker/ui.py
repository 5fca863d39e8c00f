"""`driftwork ui [tracking.uri=sqlite:///FILE] [port=5000]`: the MLflow dashboard over a SQLite store, on 127.0.0.1.

The server binds the loopback address only: it has no login.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, ClassVar

from pydantic import Field

from driftwork.command import command, run
from driftwork.config_base import Config, parse
from driftwork.errors import DriftworkError
from driftwork.help import settings_of
from driftwork.processes import ROOT, python, search_path, sigterm_exits
from launch.tracker import store_uri
from launch.tracker.store_uri import DefaultStore

USAGE = "usage: driftwork ui [key=value ...]"

HOST = "127.0.0.1"
START_S = 180  # the server's imports take 5 s on an idle machine, and much longer beside a training run


class UiConfig(Config):
    renamed: ClassVar = {"uri": "tracking.uri"}

    tracking: DefaultStore = Field(default_factory=DefaultStore)
    """MLflow store to show, a SQLite file."""
    port: int = Field(5000, ge=1, le=65535)
    """TCP port of the dashboard on 127.0.0.1."""


@command(USAGE, least=0, settings=settings_of(UiConfig))
def main(argv: list[str]) -> int:
    """Serve until Ctrl-C.

    Raises:
        DriftworkError: a key is unknown, the store does not exist, the port is taken, or the server does not start.
    """
    cfg = parse(UiConfig, argv)
    if cfg.tracking.uri is None:
        raise DriftworkError("tracking.uri=null: there is no store to show; give sqlite:///FILE")
    uri = store_uri.existing(cfg.tracking.uri)
    file = store_uri.database(uri)
    if file is None:
        raise DriftworkError(f"{uri} is a server already: open it in a browser")
    _require_free(cfg.port)
    address = f"http://{HOST}:{cfg.port}"
    command = [
        *python("-m", "mlflow", "server"), "--host", HOST, "--port", str(cfg.port), "--workers", "1",
        "--backend-store-uri", uri, "--registry-store-uri", uri,
        "--default-artifact-root", store_uri.artifact_root(file), "--uvicorn-opts", "--log-level warning",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as output, _server(command, output) as server:
        if _listens(server, cfg.port):
            print(f"{_runs_page(address)} shows {file} (Ctrl-C ends it)", flush=True)
            server.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()
    reasons = [line for line in lines if "Error: " in line] or lines or ["nothing"]
    raise DriftworkError(f"the MLflow server ended or never listened: {reasons[-1][:300]}; correct this and try again")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise DriftworkError(f"port={port} is taken; give another, as in port={port + 1}") from None


@contextmanager
def _server(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server in its own session: Ctrl-C in the terminal reaches only this process, which ends the server."""
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    no_jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # half a dozen processes that tracking does not use
    environment = {**os.environ, **search_path(), **quiet, **no_jobs}
    with sigterm_exits():
        # uvicorn imports from the working folder first.
        server = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
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


def _listens(server: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return True
    return False


def _runs_page(address: str) -> str:
    """Return the address of the newest experiment's runs; MLflow's start page does not show runs."""
    newest = f"{address}/api/2.0/mlflow/experiments/search?max_results=1&order_by=creation_time+DESC"
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback
    with directly.open(newest, timeout=START_S) as answer:
        experiment = json.load(answer)["experiments"][0]["experiment_id"]
    return f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning"


if __name__ == "__main__":
    raise SystemExit(run("ui", main, sys.argv[1:]))
