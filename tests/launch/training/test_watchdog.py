"""Ranks that hang, in separate processes, and that the watchdog ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from launch.training import watchdog
from launch.training.watchdog import HUNG, Watchdog
from tests.places import ROOT

pytestmark = pytest.mark.process

RANK = """
import sys, time
from pathlib import Path
from launch.training.watchdog import Watchdog
rank, folder, phase, moves = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], len(sys.argv) > 4
with Watchdog(rank) as watch:
    watch.within = lambda: "backward"
    watch.settle(folder)
    watch.patience = 1.0
    watch.at("data", 7)
    for _ in watch.over(phase, range(600 if moves else 1)):
        time.sleep(0.05 if moves else 0 if phase == "copies" else 60)
    if phase == "copies":
        with watch.unhurried():
            time.sleep(3)
        time.sleep(0.5)
        print("copied", file=sys.stderr, flush=True)
        time.sleep(60)
    if phase == "fails":
        raise ValueError("of its own")
"""


@pytest.fixture
def start(tmp_path):
    """Start a rank that stays in a phase, or progresses in it; it writes a note before this returns."""
    started = []

    def starting(rank, phase, *moves):
        command = [sys.executable, "-c", RANK, str(rank), str(tmp_path), phase, *moves]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        started.append(process)
        while rank not in watchdog.notes(tmp_path) or watchdog.notes(tmp_path)[rank].phase == "data" != phase:
            assert process.poll() is None
            time.sleep(0.01)
        return process

    yield starting
    for process in started:
        process.kill()
        process.wait()


def test_unhurried_phases_have_no_limit(start):
    """Such phases may take three times the patience; afterwards the limit counts again from their end."""
    copies = start(0, "copies")
    said = copies.communicate(timeout=60)[1]
    assert copies.returncode == HUNG
    assert said.splitlines()[0] == "copied"
    assert said.splitlines()[1].startswith("driftwork train: rank 0 has been in step 7, copies for 1 s")


def test_waited_for_rank_is_named_with_place(tmp_path, start):
    start(1, "data")
    waiting = start(0, "step")
    said = waiting.communicate(timeout=60)[1]
    assert waiting.returncode == HUNG
    assert said.startswith("driftwork train: rank 0 has been in step 7, backward for 1 s; rank 1 is in step 7, data; ")
    assert said.count("\n") == 1
    assert "in <module>" in (tmp_path / "ranks/0.stacks").read_text()


def test_stopped_process_differs_from_waiting_one(tmp_path, start):
    stopped = start(1, "step", "moves")
    os.kill(stopped.pid, signal.SIGSTOP)
    said = start(0, "step").communicate(timeout=60)[1]
    assert "; rank 1 is stopped or lost, last seen in step 7, backward; " in said


@pytest.mark.parametrize(("late", "excused"), [(3600.0, 3600.0), (4.0, 0.0)])
def test_stopped_time_is_not_a_hang(late, excused):
    """A process that Ctrl-Z has stopped is late as a whole; a busy machine delays it by a few seconds at most."""
    watch = Watchdog(0)
    watch.at("data", 7)
    since = watch._place[2]
    watch._excuse(late)
    assert watch._place == (7, "data", since + excused)


def test_progressing_rank_is_not_ended(start):
    process = start(0, "validation", "moves")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)


def test_lost_rank_is_reported(tmp_path, start):
    start(1, "step").kill()
    failing = subprocess.run(
        [sys.executable, "-c", RANK.replace("60)", "0)"), "0", str(tmp_path), "fails"], cwd=ROOT, stderr=subprocess.PIPE
    )  # fmt: skip
    assert failing.returncode == 1
    assert watchdog.lost(tmp_path) == "rank 1 was lost, last seen in step 7, backward"
    (tmp_path / "ranks/1.json").unlink()
    assert watchdog.lost(tmp_path) == "rank 0 in step 7, fails: ValueError: of its own"
    watchdog.clear(tmp_path)
    assert watchdog.notes(tmp_path) == {}
