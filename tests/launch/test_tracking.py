"""Runs in real SQLite stores, and behind a real server that dies; read back through MLflow's own client."""

import contextlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch import tracking
from launch.mlflow_store import find_run_folder, prepare_store
from launch.tracking import NullTracker, RunTracker, Tracker, TrackingConfig, open_run
from models import config_base
from models.errors import DriftworkError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An empty store; making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("store")
    prepare_store(f"sqlite:///{folder}/runs/mlflow.db", "elsewhere")
    return folder / "runs/mlflow.db"


@pytest.fixture
def uri(tmp_path, template):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mlflow.db").write_bytes(template.read_bytes())
    return f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.fixture
def open_(uri, tmp_path):
    """`open_run` with the arguments that a test does not care about."""

    def opened(run_id=None, tags=None, training=False, **config):
        return open_run(
            TrackingConfig(**{"uri": uri, **config}), experiment="lakh", run_name="vsdn_vae", run_folder=tmp_path,
            tags=tags or {}, run_id=run_id, training=training,
        )  # fmt: skip

    return opened


def client_of(uri):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def python(script, *arguments, **settings):
    """A Python process of its own that sees the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


def interrupted(run, error, metrics, params=None):
    """A run that `error` ends at step 0; gives its id."""
    opened = []

    def body():
        with run as tracker:
            opened.append(tracker.run_id)
            tracker.params(params or {})
            tracker.metrics(metrics, 0)
            raise error

    with pytest.raises(type(error)):
        body()
    return opened[0]


def test_what_a_run_says_is_read_back(open_, uri, tmp_path):
    picture = tmp_path / "figure.png"
    picture.write_bytes(b"picture")
    with open_(tags={"driftwork.data_hash": "abc"}) as tracker:
        tracker.params({"model.hidden": 256, "data.rates": [0.25, 0.5], "model.dropout": None})
        for step in range(3):
            tracker.metrics({"train/loss_nats_per_frame": 1.0 / (step + 1)}, step)
        tracker.tags({"stage": "trained"})
        tracker.artifact(picture, "figures")
    client = client_of(uri)
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "vsdn_vae")
    assert client.get_experiment(run.info.experiment_id).name == "lakh"
    assert run.data.params == {"model.hidden": "256", "data.rates": "[0.25, 0.5]", "model.dropout": "None"}
    history = client.get_metric_history(tracker.run_id, "train/loss_nats_per_frame")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert run.data.tags["driftwork.data_hash"] == "abc"
    assert run.data.tags["stage"] == "trained"
    assert run.data.tags["driftwork.host"] == socket.gethostname()
    stored = Path(run.info.artifact_uri.removeprefix("file://")) / "figures/figure.png"
    assert stored.read_bytes() == b"picture"
    assert stored.is_relative_to(tmp_path / "runs/artifacts")


def test_the_commit_of_the_source_is_a_tag(open_, uri):
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if git.returncode:
        pytest.skip("not a git checkout")
    with open_() as tracker:
        pass
    assert client_of(uri).get_run(tracker.run_id).data.tags["mlflow.source.git.commit"] == git.stdout.strip()


def test_config_names_win_over_the_callers(open_, uri):
    with open_(experiment="ablation", run_name="beta=0.1") as tracker:
        pass
    run = client_of(uri).get_run(tracker.run_id)
    assert run.info.run_name == "beta=0.1"
    assert client_of(uri).get_experiment(run.info.experiment_id).name == "ablation"


def test_a_relative_store_stays_where_it_was_opened(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    cfg = TrackingConfig()
    with open_run(cfg, experiment="lakh", run_name="a", run_folder=tmp_path, tags={}) as tracker:
        monkeypatch.chdir(tmp_path / "elsewhere")
        tracker.metrics({"loss": 1.0}, 0)
    assert client_of(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "runs"]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("no"), "FAILED"), (SystemExit(1), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_how_it_ended_is_the_status(open_, uri, error, status):
    run_id = interrupted(open_(), error, metrics={"loss": 1.0})
    run = client_of(uri).get_run(run_id)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}


def test_sigterm_kills_the_run_and_keeps_its_metrics(uri, tmp_path):
    script = """
import sys, time
from pathlib import Path
from launch.tracking import TrackingConfig, open_run
cfg = TrackingConfig(uri=sys.argv[1])
with open_run(cfg, experiment="lakh", run_name="a", run_folder=Path(sys.argv[2]), tags={}) as tracker:
    tracker.metrics({"loss": 1.0}, 0)
    print(tracker.run_id, flush=True)
    time.sleep(60)
"""
    child = python(script, uri, tmp_path)
    run_id = child.stdout.readline().strip()
    child.send_signal(signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        time.sleep(0.01)
        child.send_signal(signal.SIGTERM)  # launchers send it twice
    assert child.wait(30) == 143
    run = client_of(uri).get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 1.0}


def test_the_callers_signal_handlers_are_left_alone(open_):
    def own(signum, frame):
        pass

    interrupt = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGTERM, own)
    try:
        with open_():
            assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_resumed_run_keeps_its_params_and_tags_what_drifted(open_, uri):
    run_id = interrupted(open_(), RuntimeError(), {"loss": 2.0}, {"optim.lr": 1e-3, "model.hidden": 64})
    with open_(run_id=run_id) as second:
        assert client_of(uri).get_run(second.run_id).info.status == "RUNNING"
        second.params({"optim.lr": 3e-4, "model.hidden": 64, "model.latent": 8})
        second.metrics({"loss": 1.0}, 1)
    assert second.run_id == run_id
    run = client_of(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optim.lr": "0.001", "model.hidden": "64", "model.latent": "8"}
    drift = {key: value for key, value in run.data.tags.items() if key.startswith("param_drift.")}
    assert drift == {"param_drift.optim.lr": "0.0003"}
    assert [point.step for point in client_of(uri).get_metric_history(run_id, "loss")] == [0, 1]


def test_a_run_lasts_as_long_as_its_training(open_, uri):
    with open_(training=True) as tracker:
        pass
    ended = client_of(uri).get_run(tracker.run_id).info.end_time
    time.sleep(0.01)
    with open_(run_id=tracker.run_id):
        pass
    assert client_of(uri).get_run(tracker.run_id).info.end_time == ended
    with open_(run_id=tracker.run_id, training=True):
        pass
    assert client_of(uri).get_run(tracker.run_id).info.end_time > ended


def test_more_params_than_one_request_takes(open_, uri):
    params = {f"key{i}": str(i) for i in range(250)}
    with open_() as tracker:
        tracker.params(params)
    assert client_of(uri).get_run(tracker.run_id).data.params == params


def test_a_nested_run_names_its_parent(open_, uri):
    with open_() as parent, open_(parent=parent.run_id) as child:
        pass
    assert client_of(uri).get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert "mlflow.parentRunId" not in client_of(uri).get_run(parent.run_id).data.tags


def test_system_metrics_are_sampled_until_the_run_closes(open_, uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def steps(run_id):
        history = client_of(uri).get_metric_history(run_id, "system/cpu_utilization_percentage")
        return [point.step for point in history]

    with open_(training=True) as tracker:
        deadline = time.monotonic() + 60
        while len(steps(tracker.run_id)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    sampled = steps(tracker.run_id)
    assert len(sampled) > 2  # one at the close
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "3600")
    time.sleep(1)  # a step is a second of the run's age, and one that goes on has no step twice
    with open_(run_id=tracker.run_id, training=True):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name in ("system-metrics", "outbox")]
    assert not list((tmp_path / "elsewhere").iterdir())  # MLflow would make a store of its own there
    assert len(steps(tracker.run_id)) == len(sampled) + 1
    assert steps(tracker.run_id) == sorted(steps(tracker.run_id))
    assert client_of(uri).get_run(tracker.run_id).data.metrics["system/system_memory_usage_megabytes"] > 0


def test_the_run_folder_is_found_by_the_run_id(open_, uri, tmp_path):
    with open_() as tracker:
        pass
    assert find_run_folder(uri, tracker.run_id) == tmp_path
    with pytest.raises(DriftworkError, match="nonesuch") as caught:
        find_run_folder(uri, "nonesuch")
    assert "\n" not in str(caught.value)


def test_asking_a_store_that_is_not_there_does_not_create_it(tmp_path):
    with pytest.raises(DriftworkError, match="no tracking store"):
        find_run_folder(f"sqlite:///{tmp_path}/mlflow.db", "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [{"run_id": "nonesuch"}, {"parent": "nonesuch"}, {"uri": "http://127.0.0.1:9"}])
def test_a_run_that_cannot_be_opened_is_one_line(open_, monkeypatch, broken):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DriftworkError, match=r"^tracking store ") as caught, open_(**broken):
        pass
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_run_that_goes_on_needs_no_server_to_do_so(open_, tmp_path, monkeypatch, caplog):
    """It was opened before; what it says now is for later."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    picture = tmp_path / "figure.png"
    picture.touch()
    with open_(uri="http://127.0.0.1:9", run_id="it", tags={"a": "b"}, training=True) as tracker:
        tracker.params({"model.hidden": 256})
        tracker.metrics({"loss": 1.0}, 3)
        tracker.artifact(picture, "figures")
    assert "out of reach" in caplog.text
    kept = [json.loads(line) for line in (tmp_path / tracking.UNSENT).read_text().split("\n") if line]
    assert sorted(kind for kind, _ in kept) == ["artifact", "metric", "params", "status", "status", "tags"]
    assert ["artifact", [str(picture), "figures"]] in kept
    assert [body[0] for kind, body in kept if kind == "status"] == ["RUNNING", "FINISHED"]


def test_what_was_kept_is_there_once_the_run_is_opened_again(open_, uri, tmp_path):
    picture = tmp_path / "figure.png"
    picture.touch()
    with open_() as tracker:
        pass
    kept = [
        ["params", {"model.hidden": "256"}], ["tags", {"stage": "trained"}], ["metric", ["loss", 1.0, 3, 1]],
        ["artifact", [str(picture), "figures"]], ["artifact", [str(tmp_path / "gone"), ""]], ["status", ["KILLED", 2]],
    ]  # fmt: skip
    (tmp_path / tracking.UNSENT).write_text("".join("\n" + json.dumps(message) for message in kept))
    with open_(run_id=tracker.run_id):
        assert not (tmp_path / tracking.UNSENT).exists()
    run = client_of(uri).get_run(tracker.run_id)
    assert run.data.params == {"model.hidden": "256"}
    assert run.data.metrics == {"loss": 1.0}
    assert run.data.tags["stage"] == "trained"
    assert run.info.status == "FINISHED"
    assert [file.path for file in client_of(uri).list_artifacts(tracker.run_id, "figures")] == ["figures/figure.png"]


def test_what_a_killed_training_says_again_is_there_once(open_, uri, tmp_path):
    """Also where part of it had not reached the store; what an evaluation says again is news."""
    with open_(training=True) as tracker:
        for step in (10, 20, 30):
            tracker.metrics({"train/nll": float(step), "time/step_s": 1.0}, step)
    late = [["metric", ["train/nll", 40.0, 40, 1]], ["metric", ["train/nll", 50.0, 50, 2]]]
    (tmp_path / tracking.UNSENT).write_text("".join("\n" + json.dumps(message) for message in late))
    with open_(run_id=tracker.run_id, training=True) as again:
        for step in (20, 30, 40, 50, 60):
            again.metrics({"train/nll": float(step), "time/step_s": 2.0}, step)
            if step == 30:
                again.flush()
    with open_(run_id=tracker.run_id) as evaluation:
        evaluation.metrics({"train/nll": 1.0}, 60)
    client = client_of(uri)
    points = [(x.step, x.value) for x in client.get_metric_history(tracker.run_id, "train/nll")]
    assert sorted(points) == [(10, 10), (20, 20), (30, 30), (40, 40), (50, 50), (60, 1), (60, 60)]
    times = [(x.step, x.value) for x in client.get_metric_history(tracker.run_id, "time/step_s")]
    assert sorted(times) == [(10, 1), (20, 1), (30, 1), (40, 2), (50, 2), (60, 2)]


def test_a_run_has_one_model_with_what_was_measured_of_it(open_, uri, tmp_path):
    """However often it is sent: an answer may be lost, and `driftwork export` writes it anew."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("first")
    client = client_of(uri)
    with open_() as tracker:
        tracker.metrics({"train/loss": 2.0}, 1)
        tracker.flush()
        tracker.model(folder, {"name": "vsdn_vae", "latent": 8})
    (folder / "MLmodel").write_text("second")
    with open_(run_id=tracker.run_id) as again:
        again.metrics({"test/loss": 1.0}, 0)
        again.model(folder, {"name": "vsdn_vae", "latent": 8})
    run = client.get_run(tracker.run_id)
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.name, str(model.status), model.source_run_id) == ("model", "READY", tracker.run_id)
    assert (model.model_type, model.params) == ("vsdn_vae", {"name": "vsdn_vae", "latent": "8"})
    assert {metric.key: metric.value for metric in model.metrics} == {"test/loss": 1.0}
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert Path(model.artifact_location.removeprefix("file://"), "MLmodel").read_text() == "second"


def test_a_file_that_is_no_database_is_one_line(open_, tmp_path):
    (tmp_path / "text.db").write_text("no database" * 100)
    with (
        pytest.raises(DriftworkError, match=r"text\.db: .*not a database") as caught,
        open_(uri=f"sqlite:///{tmp_path}/text.db"),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/x", "sqlite:///", "sqlite://x.db", ""])
def test_unknown_stores_are_refused_by_the_config(uri):
    with pytest.raises(DriftworkError, match="sqlite:///FILE"):
        config_base.build(TrackingConfig, {"uri": uri}, where="test")


def test_a_missing_artifact_is_the_callers_mistake(open_, tmp_path):
    with pytest.raises(FileNotFoundError), open_() as tracker:
        tracker.artifact(tmp_path / "nonesuch.png")


@pytest.mark.parametrize("nowhere", [{"uri": None}, {"rank": 1}])
def test_no_tracker_leaves_no_trace(tmp_path, monkeypatch, nowhere):
    monkeypatch.chdir(tmp_path)
    cfg = TrackingConfig(**{key: value for key, value in nowhere.items() if key == "uri"})
    rank = nowhere.get("rank", 0)
    with open_run(cfg, experiment="e", run_name="r", run_folder=tmp_path, tags={}, rank=rank) as tracker:
        tracker.metrics({"loss": 1.0}, 0)
        tracker.artifact(tmp_path / "nonesuch.png")
    assert isinstance(tracker, NullTracker)
    assert tracker.run_id is None
    assert not list(tmp_path.iterdir())


def test_the_twins_speak_the_same_verbs():
    verbs = {name for name, value in vars(Tracker).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert verbs == {"params", "tags", "metrics", "artifact", "model", "flush"}
    for verb in verbs:
        expected = inspect.signature(getattr(Tracker, verb))
        assert inspect.signature(getattr(NullTracker, verb)) == expected, verb
        assert inspect.signature(getattr(RunTracker, verb)) == expected, verb


def test_importing_tracking_does_not_import_mlflow():
    child = python("import sys, launch.tracking, launch.figures, launch.ui; print('mlflow' in sys.modules)")
    assert child.communicate(timeout=60) == ("False\n", "")


@pytest.mark.slow
def test_four_processes_on_a_fresh_store(tmp_path):
    script = """
import sys
from pathlib import Path
from launch.tracking import TrackingConfig, open_run
name, folder = sys.argv[1:]
cfg = TrackingConfig(uri=f"sqlite:///{folder}/runs/mlflow.db", run_name=name)
with open_run(cfg, experiment="lakh", run_name="", run_folder=Path(folder), tags={}) as tracker:
    for step in range(20):
        tracker.metrics({"loss": 1.0}, step)
        tracker.flush()
"""
    children = [python(script, name, tmp_path) for name in "abcd"]
    for child in children:
        said = child.communicate(timeout=300)
        assert (child.returncode, said) == (0, ("", ""))
    client = client_of(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("lakh").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["a", "b", "c", "d"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {len(client.get_metric_history(run.info.run_id, "loss")) for run in runs} == {20}
