"""Served models against the model in this process, and the responses to bad requests."""

import contextlib
import json
import os
import shutil
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
import torch
from safetensors.torch import save_file

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import export as command
from launch.generation.generator import FrameGenerator
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.weights import BEST
from launch.serving import export, served_model
from launch.tracker.tracking import TrackingConfig, open_run
from models.decisions import decided
from models.generation import interpolate_at
from pipeline.observe import key_seed
from pipeline.reading.stream import Request
from pipeline.shards.manifest import read_manifest
from tests import rounding
from tests.datasets import write_rolls, write_walks
from tests.places import tiny

SDE = "model={name: vsdn_sde, latent: 4, hidden: 8, width: 16, depth: 1, max_step: 0.1}"
BI = "model={name: bi_gru_ode, hidden: 8}"


class Trained:
    """A run with initial weights, and its served model."""

    def __init__(self, folder, data, kind, *overrides):
        self.folder = folder
        file = tiny(kind)
        arguments = [
            f"data={data}",
            f"out={folder}",
            "tracking.uri=null",
            "evaluate.samples=3",
            "evaluate.particles=5",
            *overrides,
        ]
        self.config = load(RunConfig, file, arguments)
        run_folder.create(self.config)
        self.manifest = read_manifest(data)
        self.model = run_folder.model_for(self.config, self.manifest).eval()
        save_file(self.model.state_dict(), folder / BEST)

    def sequence(self):
        """Return the first batch of evaluation, of one sequence, and the request with its observed frames."""
        streams_ = loaders.evaluation(self.config, self.config.data, self.manifest, "test", alone())
        self.stream = next(iter(streams_.values()))
        batch = self.stream.dataset[Request(0, (0,), 1, 1.0)]
        seen = batch.observed[0]
        return batch, {"times": batch.times[0, seen].tolist(), "values": batch.values[0, seen].tolist()}


def exported(*run):
    trained = Trained(*run)
    export.write(trained.folder, trained.config, trained.manifest)
    return trained


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_rolls(folder / "rolls", D=16, train=(6,), val=(2,), test=(4,))
    write_walks(folder / "walks")
    return folder


@pytest.fixture(scope="module")
def music(place):
    return exported(place / "music", place / "rolls", "vsdn_vae")


@pytest.fixture(scope="module")
def paths(place):
    return exported(place / "paths", place / "rolls", "vsdn_vae", SDE)


@pytest.fixture(scope="module")
def motion(place):
    return exported(place / "motion", place / "walks", "ode2vae")


@pytest.fixture
def loaded(monkeypatch):
    """Load a run's export by `mlflow.pyfunc.load_model` without unpickling, and return its response to a sequence."""
    from mlflow import pyfunc

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def answer(trained, row, **params):
        (found,) = pyfunc.load_model(str(trained.folder / export.FOLDER)).predict(pd.DataFrame([row]), params=params)
        assert found["times"] == row["ask"]
        return torch.tensor(found["values"])

    return answer


@pytest.mark.parametrize("kind", ["music", "paths"])
def test_served_model_matches_the_model(kind, request, loaded):
    trained = request.getfixturevalue(kind)
    batch, row = trained.sequence()
    own, seed = batch.times[0], 7
    asked = batch._replace(seed=torch.tensor([seed]))
    with torch.inference_mode():
        expected = trained.model.predict(asked, 5 if kind == "paths" else 3).mean[0]
        between = torch.cat([own, own[:-1] + 0.07]).sort().values
        # Frames that exist but are not observed are not part of a request.
        shown = asked._replace(
            times=own[batch.observed[0]][None], values=batch.values[:, batch.observed[0]],
            present=batch.present[:, batch.observed[0]], observed=batch.observed[:, batch.observed[0]],
        )  # fmt: skip
        filled = interpolate_at(trained.model, shown, between, 5).frames[0]
    found = loaded(trained, {**row, "ask": own.tolist()}, task="prediction", seed=seed)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding.SINGLE)
    found = loaded(trained, {**row, "ask": between.tolist()}, samples=5, seed=seed)
    torch.testing.assert_close(found, filled, rtol=0, atol=rounding.SINGLE)


@pytest.mark.parametrize("decision", ["expected_score", "0.5"])
def test_request_may_choose_a_decision(music, loaded, decision):
    """The decision covers the requested frames that are not given; given frames are unchanged."""
    batch, row = music.sequence()
    ask = sorted({*row["times"][::2], *(batch.times[0] + 0.07).tolist()})
    given = torch.tensor([seconds in row["times"] for seconds in ask])
    probability = loaded(music, {**row, "ask": ask}, seed=7)
    found = loaded(music, {**row, "ask": ask}, seed=7, decision=decision)
    assert torch.equal(found[given], probability[given])
    assert torch.equal(found[~given] == 1, decided(probability[None], ~given[None], decision)[0, ~given])
    assert ((found == 0) | (found == 1)).all()
    predicted = loaded(music, {**row, "ask": ask}, seed=7, task="prediction")
    found = loaded(music, {**row, "ask": ask}, seed=7, task="prediction", decision=decision)
    everything = torch.ones(1, len(ask), dtype=torch.bool)
    assert torch.equal(found == 1, decided(predicted[None], everything, decision)[0])


def test_real_values_are_not_decided(motion):
    from mlflow.exceptions import MlflowException

    twin = served_model._load_pyfunc(motion.folder / export.FOLDER / "data/driftwork")
    with pytest.raises(MlflowException, match=r"decision=0\.5: this model's data are not binary"):
        twin.predict(pd.DataFrame([motion.sequence()[1] | {"ask": [0.1]}]), {"decision": "0.5"})


def test_served_interpolation_matches_generate(music, loaded):
    _, row = music.sequence()
    maker = FrameGenerator(music.model, music.stream, True, 5.0, 4, 3, 32, seed=0)
    position = maker.longest(1)[0]
    batch = music.stream.dataset[Request(0, (position,), 1, 1.0)]
    with torch.inference_mode():
        made = next(maker.interpolations(1))
    seen = batch.observed[0]
    row = {"times": made.seen.tolist(), "values": batch.values[0, seen].tolist(), "ask": batch.times[0].tolist()}
    found = loaded(music, row, seed=key_seed(0, "generate", made.key, 0))
    assert np.array_equal(found.numpy(), made.draws[0])


def test_served_forecast_matches_the_model(motion, loaded):
    batch, row = motion.sequence()
    with torch.inference_mode():
        expected = motion.model.forecast(batch._replace(seed=torch.tensor([7])), 11).mean[0]
    found = loaded(motion, {**row, "ask": batch.times[0].tolist()}, samples=11, seed=7)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding.SINGLE * float(expected.abs().max()))


def test_late_and_several_sequences_are_served(music):
    """There is no frame before the first given one, and sequences do not affect each other."""
    frames = np.eye(16)[:2]
    rows = [
        {"times": [0.4, 1.0], "values": frames, "ask": [0.0, 0.4, 3]},
        {"times": [0, 1], "values": frames.astype(int), "ask": [0.5]},
    ]
    twin = served_model._load_pyfunc(music.folder / export.FOLDER / "data/driftwork")
    together = twin.predict(pd.DataFrame(rows))
    alone_ = [twin.predict(pd.DataFrame([row]))[0] for row in rows]
    assert together == alone_
    answer = np.array(together[0]["values"])
    assert np.array_equal(answer[1], frames[0])  # an observed frame is itself
    assert ((answer >= 0) & (answer <= 1)).all()


GOOD = {"times": [0.0, 0.4], "values": np.eye(16)[:2].tolist(), "ask": [0.2]}
BAD = [
    ({"times": []}, {}, "sequence 1: times is empty"),
    ({"ask": []}, {}, "ask is empty"),
    ({"times": [0.4, 0.0]}, {}, "times must increase"),
    ({"ask": [0.2, 0.2]}, {}, "ask must increase"),
    ({"ask": [-1.0]}, {}, "ask begins at -1; the sequence begins at 0 s"),
    ({"ask": [1e9]}, {}, "goes on to 1e+09 s; this model answers up to 40 s"),
    ({"ask": np.linspace(0, 30, 20_001).tolist()}, {}, "has 20003 frames; 20000 are the most"),
    ({"values": np.eye(15)[:2].tolist()}, {}, "values are 2 x 15, not 2 x 16"),
    ({"values": np.eye(16)[:1].tolist()}, {}, "values are 1 x 16, not 2 x 16"),
    ({"values": [[0.0] * 16, [0.0] * 3]}, {}, "values must be numbers, and frames of equal length"),
    ({"values": np.full((2, 16), np.nan).tolist()}, {}, "values holds NaN"),
    ({"values": [[None] * 16] * 2}, {}, "values holds NaN"),
    ({"values": np.full((2, 16), 0.5).tolist()}, {}, "values must be 0 or 1"),
    ({"times": ["a", "b"]}, {}, "times must be numbers"),
    ({}, {"task": "forecast"}, "task=forecast: vsdn_vae answers interpolation and prediction"),
    ({}, {"samples": 0}, "samples=0: from 1 to 1000"),
    ({}, {"particles": 1001}, "particles=1001: from 1 to 1000"),
    ({}, {"seed": -1}, "seed=-1: must not be negative"),
    ({}, {"decision": "loud"}, "decision=loud: it is one of expected_score, 0.5, probability"),
]


@pytest.mark.parametrize(("change", "params", "said"), BAD, ids=[said for *_, said in BAD])
def test_bad_request_is_reported_in_one_line(music, change, params, said):
    from mlflow.exceptions import MlflowException

    twin = served_model._load_pyfunc(music.folder / export.FOLDER / "data/driftwork")
    with pytest.raises(MlflowException) as caught:
        twin.predict(pd.DataFrame([{**GOOD, **change}]), params)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.get_http_status_code() == 400


def test_forecast_needs_the_encoder_frames(motion):
    from mlflow.exceptions import MlflowException

    twin = served_model._load_pyfunc(motion.folder / export.FOLDER / "data/driftwork")
    batch, row = motion.sequence()
    for times in (row["times"][:2], [2 * seconds for seconds in row["times"]]):
        short = {"times": times, "values": row["values"][: len(times)], "ask": [0.1]}
        with pytest.raises(MlflowException, match="a forecast sees the first 3 frames, at 0, "):
            twin.predict(pd.DataFrame([short]))


def test_served_smoother_only_interpolates(place):
    trained = Trained(place / "both-ways", place / "rolls", "vsdn_vae", BI)
    assert served_model.tasks(trained.model) == ("interpolation",)


def test_export_has_no_pickle_and_few_requirements(music):
    """It lists only the packages that the model needs."""
    folder = music.folder / export.FOLDER
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "requirements.txt", "code/served_model.py", "code/models/registry.py"} <= files
    assert {"data/driftwork/weights.safetensors", "data/driftwork/config.yaml"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pyc", ".pt", ".bin"))]
    needed = ("code/models/", "code/driftwork/", "code/served_model.")
    assert not [name for name in files if name.startswith("code/") and not name.startswith(needed)]
    wanted = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert wanted == {"mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch"}


def test_better_weights_leave_the_export_alone(place):
    """They are exported only by another export."""
    trained = Trained(place / "again", place / "rolls", "vsdn_vae")
    weights = export.write(trained.folder, trained.config, trained.manifest) / "data/driftwork" / served_model.WEIGHTS
    before = weights.read_bytes()
    better = {name: x + 1 for name, x in trained.model.state_dict().items()}
    os.replace(_saved(better, place / "better"), trained.folder / BEST)
    assert weights.read_bytes() == before
    export.write(trained.folder, trained.config, trained.manifest)
    assert weights.read_bytes() != before


def test_full_disk_keeps_the_old_export(music, monkeypatch):
    def full(*_, **__):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")] * 30)

    monkeypatch.setattr(export.mlflow_store, "save_model", full)
    with pytest.raises(DriftworkError, match=r"/model: cannot be written: \[Errno 28\] No space left on device$"):
        export.write(music.folder, music.config, music.manifest)
    assert (music.folder / export.FOLDER / "MLmodel").exists()
    assert not [path for path in music.folder.iterdir() if path.name.startswith(".")]


def _saved(weights, path):
    save_file(weights, path)
    return path


def test_run_without_weights_is_not_exported(place):
    trained = Trained(place / "empty", place / "rolls", "vsdn_vae")
    (trained.folder / BEST).unlink()
    with pytest.raises(DriftworkError, match=r"no best\.safetensors"):
        command.main([str(trained.folder)])


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
