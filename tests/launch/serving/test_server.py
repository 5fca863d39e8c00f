"""MLflow serves a tracked run's model over HTTP."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from launch.serving import export, served_model
from launch.tracker.tracking import TrackingConfig, open_run
from tests import rounding
from tests.launch.serving.requests import BAD, GOOD


@contextlib.contextmanager
def scoring(model, store, folder, port):
    """Run `mlflow models serve` in a folder without Driftwork, and return a function that sends requests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # it calls uvicorn by name
    command = [
        sys.executable, "-P", "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    with (folder / "said.txt").open("wb") as said:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )

    def ask(path, body=None):
        question = urllib.request.Request(
            f"http://127.0.0.1:{port}/{path}", body and json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(question, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, (folder / "said.txt").read_text()
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):
                ask("ping")
                break
            time.sleep(0.5)
        yield ask
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.slow
def test_server_needs_only_the_tracked_run(music, tmp_path, free_port, empty_store):
    store = empty_store(tmp_path / "runs/mlflow.db")
    with open_run(
        TrackingConfig(uri=store), experiment="rolls", run_name="music", run_folder=tmp_path, tags={}
    ) as tracker:
        export.after_training(music.folder, music.config, music.manifest, tracker)
    batch, row = music.sequence()
    row |= {"ask": (batch.times[0] + 0.03).tolist()}
    twin = served_model._load_pyfunc(music.folder / export.FOLDER / "data/driftwork")
    expected = twin.predict(pd.DataFrame([row]), {"seed": 3})
    (tmp_path / "elsewhere").mkdir()
    with scoring(f"runs:/{tracker.run_id}/model", store, tmp_path / "elsewhere", free_port) as ask:
        code, said = ask("invocations", {"dataframe_records": [row], "params": {"seed": 3}})
        assert code == 200, said
        (answer,) = json.loads(said)["predictions"]
        np.testing.assert_allclose(answer["values"], expected[0]["values"], rtol=0, atol=rounding.SINGLE)
        for change, params, reason in BAD:
            code, said = ask("invocations", {"dataframe_records": [{**GOOD, **change}], "params": params})
            assert code == 400, (reason, said)
            assert reason in json.loads(said)["message"]
        for body in ({"dataframe_records": [{"times": [0.0]}]}, {"dataframe_records": []}, {"no": 1}, []):
            code, said = ask("invocations", body)
            assert 400 <= code < 500, (body, said)
        assert ask("ping")[0] == 200
