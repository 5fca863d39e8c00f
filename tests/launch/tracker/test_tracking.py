"""Runs in real SQLite stores, read back through MLflow's own client."""

import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from driftwork import config_base
from driftwork.errors import DriftworkError
from launch.tracker.mlflow_store import find_run_folder
from launch.tracker.tracking import NullTracker, RunTracker, Tracker, TrackingConfig, open_run
from tests.places import ROOT


def client_of(uri):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def python(script, *arguments, **settings):
    """Run a Python process that can import the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


def interrupted(run, error, metrics, params=None):
    """Make a run that `error` ends at step 0, and return its id."""
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


def test_tracked_messages_are_read_back(open_, uri, tmp_path):
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


def test_source_commit_is_a_tag(open_, uri):
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if git.returncode:
        pytest.skip("not a git checkout")
    with open_() as tracker:
        pass
    assert client_of(uri).get_run(tracker.run_id).data.tags["mlflow.source.git.commit"] == git.stdout.strip()


def test_config_names_override_the_callers(open_, uri):
    with open_(experiment="ablation", run_name="beta=0.1") as tracker:
        pass
    run = client_of(uri).get_run(tracker.run_id)
    assert run.info.run_name == "beta=0.1"
    assert client_of(uri).get_experiment(run.info.experiment_id).name == "ablation"


def test_relative_store_stays_where_opened(tmp_path, monkeypatch):
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
def test_status_follows_the_end(open_, uri, error, status):
    run_id = interrupted(open_(), error, metrics={"loss": 1.0})
    run = client_of(uri).get_run(run_id)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1.0}


@pytest.mark.process
def test_sigterm_keeps_the_metrics(uri, tmp_path):
    script = """
import sys, time
from pathlib import Path
from launch.tracker.tracking import TrackingConfig, open_run
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


def test_callers_signal_handlers_are_kept(open_):
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


def test_more_params_than_one_request_takes(open_, uri):
    params = {f"key{i}": str(i) for i in range(250)}
    with open_() as tracker:
        tracker.params(params)
    assert client_of(uri).get_run(tracker.run_id).data.params == params


def test_nested_run_names_its_parent(open_, uri):
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
        deadline = time.monotonic() + 600
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


def test_run_folder_is_found_by_id(open_, uri, tmp_path):
    with open_() as tracker:
        pass
    assert find_run_folder(uri, tracker.run_id) == tmp_path
    with pytest.raises(DriftworkError, match="nonesuch") as caught:
        find_run_folder(uri, "nonesuch")
    assert "\n" not in str(caught.value)


def test_reading_creates_no_store(tmp_path):
    with pytest.raises(DriftworkError, match="no tracking store"):
        find_run_folder(f"sqlite:///{tmp_path}/mlflow.db", "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.network
@pytest.mark.parametrize("broken", [{"run_id": "nonesuch"}, {"parent": "nonesuch"}, {"uri": "http://127.0.0.1:9"}])
def test_unopenable_run_is_reported(open_, monkeypatch, broken):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(DriftworkError, match=r"^tracking store ") as caught, open_(**broken):
        pass
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_file_without_database_is_reported(open_, tmp_path):
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


def test_missing_artifact_raises(open_, tmp_path):
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


def test_trackers_have_equal_methods():
    verbs = {name for name, value in vars(Tracker).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert verbs == {"params", "tags", "dataset", "metrics", "artifact", "model", "flush"}
    for verb in verbs:
        expected = inspect.signature(getattr(Tracker, verb))
        assert inspect.signature(getattr(NullTracker, verb)) == expected, verb
        assert inspect.signature(getattr(RunTracker, verb)) == expected, verb


@pytest.mark.process
def test_importing_tracking_does_not_import_mlflow():
    modules = "launch.tracker.tracking, launch.figures.style, launch.tracker.ui"
    child = python(f"import sys, {modules}; print('mlflow' in sys.modules)")
    assert child.communicate(timeout=60) == ("False\n", "")


@pytest.mark.slow
def test_four_processes_on_a_fresh_store(tmp_path):
    script = """
import sys
from pathlib import Path
from launch.tracker.tracking import TrackingConfig, open_run
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
