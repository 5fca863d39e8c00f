"""Trials that run at the same time, on Ray."""

import subprocess
from pathlib import Path

import pytest

from launch import sweep
from tests import hostile
from tests.launch.sweeps.sweeping import ENDLESS, command, tracked, until


@pytest.mark.slow
@pytest.mark.ray
def test_four_at_once_on_a_fresh_store(place, local_ray, capsys):
    grid = place("grid: {train.beta: [0.1, 1], train.seed: [0, 1]}\nat_once: 4")
    assert sweep.main([grid]) == 0
    said = capsys.readouterr().out
    assert all(f"{n}/4 beta=" in said for n in range(1, 5))
    parent, children = tracked()
    assert len(children) == 4
    assert {one.info.status for one in (parent, *children)} == {"FINISHED"}
    assert all("test/density_25_nll_nats_per_frame" in child.data.metrics for child in children)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("uri")
def test_signal_reaches_trials_on_ray(place):
    """The folder has files with names of modules, none of which is executed by Ray's workers, trials or ranks."""
    hostile.plant(Path.cwd())
    grid = place("grid: {train.seed: [0, 1]}\nat_once: 2", **ENDLESS)
    words, environment = command(grid)
    started = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: all(Path(f"runs/some/seed={s}/checkpoints/latest").exists() for s in (0, 1)), started)
    started.terminate()
    assert started.wait(150) == 143
    parent, children = tracked()
    assert len(children) == 2
    assert {one.info.status for one in (parent, *children)} == {"KILLED"}
    assert hostile.executed(Path.cwd()) == []
