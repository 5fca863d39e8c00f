"""`driftwork ui` as a process: the dashboard, one line for each mistake, and no process left after Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from driftwork.errors import DriftworkError
from launch.tracker import mlflow_store, ui
from tests import hostile
from tests.places import ROOT


def get(address):
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with directly.open(address, timeout=30) as answer:
        return answer.read()


@pytest.mark.slow
def test_dashboard_runs_until_ctrl_c(tmp_path, free_port):
    experiment = mlflow_store.prepare_store(f"sqlite:///{tmp_path}/mlflow.db", "lakh")
    hostile.plant(tmp_path)
    command = [sys.executable, "-P", "-m", "launch.tracker.ui", "tracking.uri=sqlite:///mlflow.db", f"port={free_port}"]
    server = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell starts background processes with Ctrl-C ignored, which their children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    line = server.stdout.readline()
    try:
        address = f"http://127.0.0.1:{free_port}"
        assert line.startswith(f"{address}/#/experiments/{experiment}/runs")
        assert str(tmp_path / "mlflow.db") in line
        assert b"<title>MLflow</title>" in get(address)
        found = json.loads(get(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=lakh"))
        assert found["experiment"]["artifact_location"] == f"file://{tmp_path}/artifacts"
    finally:
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=30)
    assert (server.returncode, said) == (130, ("", ""))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0
    assert hostile.executed(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py") == ["mlflow.db", "mlflow.db.lock"]


def test_taken_port_is_named(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DriftworkError, match=f"port={port} is taken"):
            ui.main([f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"port={port}"])


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("uri=sqlite:///nonesuch.db", "no tracking store"),
        ("tracking.uri=http://127.0.0.1:5000", "is a server already"),
        ("tracking.uri=./mlruns", "must be sqlite:///FILE"),
        ("port=0", "greater than or equal to 1"),
        ("port=five", "valid integer"),
        ("prot=5001", "did you mean 'port'"),
        ("5001", "not of the form key=value"),
    ],
)
def test_mistake_names_the_allowed_values(tmp_path, monkeypatch, argument, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DriftworkError, match=said) as caught:
        ui.main([argument])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_failed_server_gives_its_reason(tmp_path, free_port):
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(DriftworkError, match="not a database") as caught:
        ui.main([f"tracking.uri=sqlite:///{tmp_path}/text.db", f"port={free_port}"])
    assert "\n" not in str(caught.value)
