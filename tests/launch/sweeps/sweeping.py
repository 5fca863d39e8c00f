"""`driftwork sweep` in a separate process, and its results at the tracker and in the run folders."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.places import ROOT, tiny

TINY = tiny("vsdn_vae")
ENDLESS = {"train.max_epochs": 9000, "train.patience": 9000}


def command(*arguments):
    """Run the command in a separate process."""
    words = [sys.executable, "-P", "-m", "launch.cli", "sweep", *map(str, arguments)]
    return words, {**os.environ, "PYTHONPATH": str(ROOT)}


def driftwork(*arguments, timeout=1800):
    words, environment = command(*arguments)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout)


def tracked(experiment="rolls"):
    """Return the parent run and its children, which must be all runs of the experiment."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path.cwd()}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    children = [one for one in runs if one is not parent]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    return parent, children


def record(folder):
    return json.loads((Path(folder) / "run.json").read_text())


def until(condition, started, seconds=900):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.05)
