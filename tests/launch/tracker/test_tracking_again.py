"""Runs that are opened again, by a resumed training or an evaluation, and after an outage of the tracker."""

import json
import time
from pathlib import Path

import pytest

from launch.tracker import tracking
from launch.tracker.pending import PendingMetrics
from tests.launch.tracker.test_tracking import client_of, interrupted


def test_resumed_run_tags_drifted_params(open_, uri):
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


def test_run_lasts_as_long_as_training(open_, uri):
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


@pytest.mark.network
def test_resumed_run_needs_no_server(open_, tmp_path, monkeypatch, caplog):
    """The run was opened before, and its new messages are kept for later."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    picture = tmp_path / "figure.png"
    picture.touch()
    with open_(uri="http://127.0.0.1:9", run_id="it", tags={"a": "b"}, training=True) as tracker:
        tracker.params({"model.hidden": 256})
        tracker.metrics({"loss": 1.0}, 3)
        tracker.artifact(picture, "figures")
    assert "cannot be reached" in caplog.text
    kept = [json.loads(line) for line in (tmp_path / tracking.UNSENT).read_text().split("\n") if line]
    assert sorted(kind for kind, _ in kept) == ["artifact", "metric", "params", "status", "status", "tags"]
    assert ["artifact", [str(picture), "figures"]] in kept
    assert [body[0] for kind, body in kept if kind == "status"] == ["RUNNING", "FINISHED"]


def test_kept_messages_arrive_when_run_reopens(open_, uri, tmp_path):
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


def test_repeated_metrics_are_stored_once(open_, uri, tmp_path):
    """Repeats have no effect even if part of the metrics had not reached the store. Repeated metrics of an evaluation
    are new points."""
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


def test_abandoned_steps_leave_no_points(open_, uri):
    """Points that a killed training logged after its last checkpoint are not part of the run, whatever follows instead.
    Points that the checkpoint covers are stored with their own times, although the process ended before they were sent.
    """
    with open_(training=True) as tracker:
        pending = PendingMetrics(tracker)
        pending.metrics({"train/nll": 1.0}, 10)
        pending.release()
        pending.metrics({"train/nll": 2.0}, 20)
        checkpoint = json.loads(json.dumps(pending.state()))
        pending.metrics({"train/nll": 3.0}, 30)
    with open_(run_id=tracker.run_id, training=True) as again:
        pending = PendingMetrics(again)
        pending.restore(checkpoint)
        pending.metrics({"train/nll": 4.0}, 30)
        pending.release()
    points = client_of(uri).get_metric_history(tracker.run_id, "train/nll")
    assert sorted((x.step, x.value) for x in points) == [(10, 1.0), (20, 2.0), (30, 4.0)]
    assert next(x.timestamp for x in points if x.step == 20) == checkpoint[0][2]


def test_run_has_one_model_with_metrics(open_, uri, tmp_path):
    """The model may be sent any number of times: a response may be lost, and `driftwork export` writes the model
    anew."""
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
