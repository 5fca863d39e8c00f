"""Ctrl-C and Ctrl-Z in a terminal, on two ranks: one Ctrl-C saves, a second one ends at once; Ctrl-Z stops all."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.datasets import write_rolls
from tests.places import ROOT, tiny

TINY = str(tiny("vsdn_vae"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Provide a working folder with data."""
    made = tmp_path_factory.mktemp("ctrl-c")
    write_rolls(made / "rolls")
    return made


def in_terminal(folder, *arguments):
    """Start a training without end that leads a process group, as a shell starts it, and wait for a checkpoint. Returns
    the process and its ranks."""
    endless = ["train.max_epochs=50000", "train.patience=50000", "tracking.uri=null"]
    command = [sys.executable, "-P", "-m", "launch.cli", "train", TINY, "data=rolls", *arguments, *endless]
    started = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )  # fmt: skip
    out = next(argument.removeprefix("out=") for argument in arguments if argument.startswith("out="))
    deadline = time.monotonic() + 600
    while not (folder / out / "checkpoints/latest").exists():
        assert time.monotonic() < deadline
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.1)
    ranks = psutil.Process(started.pid).children(recursive=True)
    return started, [process for process in ranks if "LOCAL_RANK" in process.environ()]


def ctrl_z_and_fg(started, latest):
    """Stop a training as Ctrl-Z does, check that all its processes stand still, and continue it as `fg` does."""
    everyone = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
    os.killpg(started.pid, signal.SIGTSTP)
    deadline = time.monotonic() + 600
    while any(process.status() != psutil.STATUS_STOPPED for process in everyone):
        assert time.monotonic() < deadline, everyone
        time.sleep(0.1)
    before = latest.read_text()
    os.killpg(started.pid, signal.SIGCONT)
    while latest.read_text() == before:
        assert time.monotonic() < deadline + 60, everyone
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_saves_and_ctrl_z_stops(folder):
    """The signal reaches all processes of the group, as from a terminal, and those that read batches ahead."""
    started, ranks = in_terminal(folder, "out=runs/ctrl-c", "loader_workers=1")
    ctrl_z_and_fg(started, folder / "runs/ctrl-c/checkpoints/latest")
    os.killpg(started.pid, signal.SIGINT)
    said, errors = started.communicate(timeout=90)
    assert started.returncode == 75, errors
    assert "Ctrl-C: the ranks finish the step and save" in errors
    assert "[ERROR]" not in said + errors
    assert "Traceback" not in said + errors
    assert said.splitlines()[-1] == "interrupted, and saved. Continue with: driftwork train resume=runs/ctrl-c"
    step = json.loads((folder / "runs/ctrl-c/run.json").read_text())["interrupted"]
    assert (folder / "runs/ctrl-c/checkpoints/latest").read_text() == f"step-{step:07d}"
    assert not psutil.wait_procs(ranks, timeout=30)[1]


@pytest.mark.slow
def test_second_ctrl_c_ends_at_once(folder):
    """The training ends even if the ranks are stopped and cannot save."""
    started, ranks = in_terminal(folder, "out=runs/ctrl-c-twice")
    for rank in ranks:
        rank.suspend()
    os.killpg(started.pid, signal.SIGINT)
    time.sleep(1)
    assert started.poll() is None
    os.killpg(started.pid, signal.SIGINT)
    said, errors = started.communicate(timeout=20)
    assert started.returncode == 130
    step = int((folder / "runs/ctrl-c-twice/checkpoints/latest").read_text().removeprefix("step-"))
    again = f"Continue from step {step} with: driftwork train resume=runs/ctrl-c-twice"
    assert said.splitlines()[-1] == f"ended without saving. {again}"
    assert "[ERROR]" not in errors
    assert not psutil.wait_procs(ranks, timeout=10)[1]
