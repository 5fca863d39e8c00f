"""Checks of tracking stores, as made by MLflow and broken."""

import http.server
import io
import os
import socket
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import pytest

from driftwork import files
from launch.checks import store as doctor_store
from launch.tracker import mlflow_store
from tests.launch.checks.findings import level_of


@pytest.fixture
def store(tmp_path):
    """Provide a store made by this environment's MLflow."""
    file = tmp_path / "store.db"
    revisions = dict(doctor_store._revisions())
    (newest,) = revisions.keys() - set(revisions.values())
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES (?)", (newest,))
    database.close()
    return file


@pytest.mark.slow
def test_schema_matches_mlflow(store, tmp_path):
    mlflow_store.prepare_store(f"sqlite:///{tmp_path}/mlflow.db", "x")
    found = [doctor_store.tracking(f"sqlite:///{file}") for file in (store, tmp_path / "mlflow.db")]
    assert [level_of(finding) for finding in found] == ["ok", "ok"]
    assert found[0].message.split()[-1] == found[1].message.split()[-1]


def test_store_is_new_or_fits_mlflow(home, store):
    assert level_of(doctor_store.tracking(None)) == "ok"
    assert "created by the first run" in doctor_store.tracking(f"sqlite:///{home}/a/b/mlflow.db").message
    assert not (home / "a").exists()
    before = store.read_bytes()
    finding = doctor_store.tracking(f"sqlite:///{store}")
    assert level_of(finding) == "ok"
    assert store.read_bytes() == before
    assert finding.message.split()[-1] in dict(doctor_store._revisions())


def test_store_that_cannot_grow_is_an_error(home, store, monkeypatch):
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda dir: io.FileIO("/dev/full", "w"))
    finding = doctor_store.tracking(f"sqlite:///{store}")
    assert level_of(finding) == "error"
    assert finding.message == f"{store} cannot grow: No space left on device"


@pytest.mark.parametrize(("version", "said"), [("0a8213491aaa", "older"), ("ffffffffffff", "newer")])
def test_store_of_another_mlflow_is_an_error(home, store, version, said):
    file = home / "other.db"
    file.write_bytes(store.read_bytes())
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    database.close()
    finding = doctor_store.tracking(f"sqlite:///{file}")
    assert level_of(finding) == "error"
    assert f"written by a{'n' if said == 'older' else ''} {said} MLflow" in finding.message


def test_locked_store_is_named_in_seconds(home, store):
    holder = sqlite3.connect(store)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        began = time.monotonic()
        assert "has been locked" in doctor_store.tracking(f"sqlite:///{store}").message
        assert time.monotonic() - began < 10
    finally:
        holder.close()
    assert level_of(doctor_store.tracking(f"sqlite:///{store}")) == "ok"


@pytest.mark.parametrize(
    ("content", "said"), [(b"no database at all" * 99, "not a database"), (None, "not an MLflow store")]
)
def test_file_without_store_is_an_error(home, content, said):
    file = home / "x.db"
    if content is None:
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE other (x)")
        database.close()
    else:
        file.write_bytes(content)
    finding = doctor_store.tracking(f"sqlite:///{file}")
    assert level_of(finding) == "error"
    assert said in finding.message


def test_unwritable_store_is_an_error(store):
    assert level_of(doctor_store.tracking("sqlite:////proc/none/mlflow.db")) == "error"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder, "mlflow.db")
        file.write_bytes(store.read_bytes())
        file.chmod(0o444)
        os.seteuid(65534 if os.geteuid() == 0 else os.geteuid())  # root may write with any mode
        try:
            finding = doctor_store.tracking(f"sqlite:///{file}")
        finally:
            os.seteuid(os.getuid())
    assert level_of(finding) == "error"
    assert finding.message == f"{file} is not writable"


@pytest.mark.network
def test_server_answers_or_not(monkeypatch, free_port):
    monkeypatch.setenv("no_proxy", "*")

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.startswith(("/health", "/api/2.0/mlflow/")) else 404)
            self.end_headers()

        def log_message(self, *arguments): ...

    uri = f"http://127.0.0.1:{free_port}"
    finding = doctor_store.tracking(uri)
    assert level_of(finding) == "error"
    assert "does not answer" in finding.message
    with http.server.HTTPServer(("127.0.0.1", free_port), Health) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        assert level_of(doctor_store.tracking(uri)) == "ok"
        assert "responds with status 404" in doctor_store.tracking(f"{uri}/other").message
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert level_of(doctor_store.tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")) == "error"
        assert time.monotonic() - began < 10


@pytest.mark.network
def test_address_that_is_no_server_is_an_error(monkeypatch):
    """The first has the letter O in its port; at the second something else than HTTP answers."""
    monkeypatch.setenv("no_proxy", "*")
    found = [doctor_store.tracking("http://localhost:5OOO")]
    with socket.create_server(("localhost", 0)) as server:
        server.settimeout(10)

        def answer():
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found.append(doctor_store.tracking(f"http://localhost:{server.getsockname()[1]}"))
        thread.join()
    assert [level_of(finding) for finding in found] == ["error", "error"]
    assert "nonnumeric port: '5OOO'" in found[0].message
    assert "SSH-2.0" in found[1].message
