"""A training whose tracking server is killed, restarted, and killed for good: all messages arrive in the end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import psutil
import pytest

from launch.tracker.tracking import UNSENT
from tests.datasets import write_rolls
from tests.launch.tracker.test_tracking import client_of
from tests.places import ROOT, tiny

TINY = str(tiny("vsdn_vae"))
EPOCHS = 300  # of four steps
PATIENCE_S = 300


def wait_until(condition, *still):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert all(process.poll() is None for process in still), "it ended meanwhile"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def start(folder, *arguments, variables=None, **settings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.update(variables or {})
    environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **settings)


@contextlib.contextmanager
def serving(folder, port, *options, **variables):
    """Run `mlflow server`, which is killed abruptly; artifacts go through it."""
    with (folder / "server.txt").open("a") as said:
        server = start(
            folder, "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1,
            "--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", folder / "artifacts",
            *options, variables=variables, stdout=said, stderr=said,
        )  # fmt: skip

    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as said:
            return said.status == 200
        return False

    try:
        wait_until(answers, server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def of_each(family, act):
    for member in family:
        with contextlib.suppress(psutil.Error):
            act(member)


@contextlib.contextmanager
def slowed(process):
    """Let a process and all below it, such as its ranks, run for a fifth of the time, so that it outlasts the outages
    on any machine, and not at all while the yielded event is set, since a server may take a minute to start."""
    ended, held = threading.Event(), threading.Event()
    parent = psutil.Process(process.pid)

    def alternate():
        while not ended.wait(0.1):
            family = [parent, *parent.children(recursive=True)]
            of_each(family, psutil.Process.suspend)
            time.sleep(0.4)
            while held.is_set() and not ended.is_set():
                time.sleep(0.05)
            of_each(family, psutil.Process.resume)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_training_survives_its_tracker(tmp_path, free_port, empty_store):
    write_rolls(tmp_path / "rolls")
    unsent, store = tmp_path / "runs/outage" / UNSENT, empty_store(tmp_path / "mlflow.db")

    def steps(metric):
        return [point.step for point in client_of(store).get_metric_history(run_id(), metric)]

    def run_id():
        client = client_of(store)
        return client.search_runs([client.get_experiment_by_name("rolls").experiment_id])[0].info.run_id

    with contextlib.ExitStack() as until_the_last_outage:
        with (tmp_path / "training.txt").open("w") as said, serving(tmp_path, free_port):
            training = start(
                tmp_path, "launch.cli", "train", TINY, "data=rolls", "out=runs/outage", f"train.max_epochs={EPOCHS}",
                "train.patience=1000", "train.validate_every=100", f"tracking.uri=http://127.0.0.1:{free_port}",
                stdout=said, stderr=said,
            )  # fmt: skip
            wait_until(lambda: "step     20 " in (tmp_path / "training.txt").read_text(), training)
            held = until_the_last_outage.enter_context(slowed(training))
            wait_until(lambda: len(steps("train/grad_norm")) > 1, training)
        wait_until(lambda: unsent.exists() and "train/grad_norm" in unsent.read_text(), training)
        held.set()
        with serving(tmp_path, free_port):
            held.clear()
            wait_until(lambda: not unsent.exists(), training)
            held.set()
    assert training.wait(PATIENCE_S) == 0, (tmp_path / "training.txt").read_text()
    said = (tmp_path / "training.txt").read_text()
    assert said.count("tracking fails, training continues") == 2
    assert client_of(store).get_run(run_id()).info.status == "RUNNING"  # the last status that it got
    assert {"artifact", "metric", "status"} <= {line.split('"')[1] for line in unsent.read_text().split("\n") if line}
    with serving(tmp_path, free_port):
        evaluation = start(tmp_path, "launch.cli", "evaluate", "runs/outage")
        assert evaluation.wait(PATIENCE_S) == 0
    assert not unsent.exists()
    last = 4 * EPOCHS
    assert steps("train/grad_norm") == list(range(10, last + 1, 10))
    assert steps("time/forward_s") == steps("train/nll_nats_per_frame") == steps("train/grad_norm")
    assert steps("val/best_score") == list(range(400, last + 1, 400))
    found = client_of(store).get_run(run_id())
    assert found.info.status == "FINISHED"
    assert found.data.params["train.max_epochs"] == str(EPOCHS)
    assert found.data.tags["driftwork.model"] == "vsdn_vae"
    assert found.data.metrics["test/density_25_kl_nats_per_frame"] >= 0
    files = {path.name for path in (tmp_path / "artifacts").rglob("*/artifacts/*")}
    assert {"config.yaml", "weights", "MLmodel", "outputs"} <= files
