"""The memory and time of a training, against closed forms."""

import numpy as np
import pytest
from torch import nn

from launch.cli import main_of
from launch.planning import hardware, plan, sizes
from launch.planning.hardware import Hardware
from launch.planning.sizes import Sizes
from models.base import Objective, Terms, TrainableModel
from models.solvers import flow, sde_loop
from tests.datasets import write_rolls
from tests.models.conftest import make_batch, small
from tests.places import tiny

FOUND = Sizes(
    weights=1000, operations=2 * 10**9, calls=4000, kept=5 * 10**6, length=100, bytes=1e3, loader=50.0
)  # fmt: skip
ASSUMED = Hardware(operations=1e12, launch=1e-5, inside=1e9, between=1e8, latency=1e-4)
EQUAL = np.full(20, 100)
"""Numbers of frames of 20 sequences of equal length."""


class Linear(TrainableModel):
    """A model of two matrix products without a bias."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7, bias=False), nn.Linear(7, 3, bias=False)

    def forward(self, batch, kl_weight):
        loss = self.second(self.first(batch.values)).sum((1, 2))
        return Objective(loss, Terms(loss, loss, loss))


def test_products_are_counted():
    """A product takes 2 operations for each pair of numbers; its gradients take as many each. The first product has no
    gradient of its input. The inputs of both are kept, in single precision."""
    batch = make_batch(irregular=True)
    rows = batch.values[..., 0].numel()
    calls, operations, kept = sizes.count(Linear(), batch)
    assert operations == 2 * rows * (5 * 7 * 2 + 7 * 3 * 3)
    assert kept == 4 * rows * (5 + 7)
    assert calls >= 5


@pytest.mark.parametrize("name", ["vsdn_vae", "vsdn_sde"])
def test_eager_loops_are_counted(monkeypatch, name):
    """The compiled loops, which run only on a CPU, hide their operations from the counter."""
    for module in (flow, sde_loop):
        monkeypatch.setattr(module, "run_compiled", lambda *arguments: pytest.fail("compiled"))
    batch = make_batch(irregular=True)
    batch = batch._replace(values=batch.values.float())
    assert sizes.count(small(name).float(), batch)[0] > 100


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "state"),
    [(0, 4000, 4000, 8000), (1, 4000, 4000, 2000), (2, 4000, 1000, 2000), (3, 1000, 1000, 2000)],
)
def test_zero_stage_divides_memory(stage, weights, gradients, state):
    found = hardware.memory(FOUND, gpus=4, sequences=3, stage=stage, average=True)
    assert list(found.values()) == [weights, gradients, state, 4000, 15e6]


def test_step_takes_the_longer_of_launches_and_arithmetic():
    """4,000 launches of 10 us take 40 ms, and so do 20 sequences of 2e9 operations at 1e12 per second."""
    for batch, seconds in ((1, 0.04), (20, 0.04), (40, 0.08)):
        assert hardware.step(FOUND, ASSUMED, 1, batch, 1.0) == (pytest.approx(seconds), 0.0)
    reduced = hardware.step(FOUND, ASSUMED, 4, 1, 1.0)[1]
    assert reduced == pytest.approx(2 * 3 / 4 * 4000 / 1e9 + 2 * 2 * 1e-4)
    assert hardware.step(FOUND, ASSUMED, 16, 1, 1.0)[1] == pytest.approx(2 * 15 / 16 * 4000 / 1e8 + 2 * 4 * 1e-4)


def test_micro_batches_repeat_the_launches():
    alone, took, reduced = plan.times(FOUND, ASSUMED, EQUAL, gpus=2, each=4, parts=2)
    assert alone == took == pytest.approx(0.08)
    assert reduced == hardware.step(FOUND, ASSUMED, 2, 2, 1.0)[1]


def test_longest_sequence_sets_the_pace():
    """Ten draws from lengths 50 and 100 are all short with probability 2^-10."""
    frames = np.array([50, 100])
    found = hardware.longest(frames, 2, 5, np.random.default_rng(0))
    assert found == pytest.approx(1 - 0.5 * 2.0**-10, abs=4 * 0.5 * (2.0**-10 / 1000) ** 0.5)


def test_plan_marks_counted_figures(tmp_path, capsys):
    write_rolls(tmp_path / "rolls")
    config = str(tiny("vsdn_vae"))
    assert main_of("plan")([config, f"data={tmp_path / 'rolls'}", "gpus=4", "train.accumulate=2"]) == 0
    lines = {line[2:].split("  ")[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert "25,952  counted" in lines["weights"]
    assert lines["sequences per step"].endswith("8  2 per GPU, in 2 micro-batches")
    assert lines["steps per epoch"].split() == ["steps", "per", "epoch", "4", "counted"]
    for name in ("step", "all-reduce in a step", "efficiency", "sequences per second", "4 epochs"):
        assert "modelled" in lines[name], name
    for name in ("total memory per GPU", "kernel launches per step", "operations per step and GPU"):
        assert "counted" in lines[name], name


@pytest.mark.parametrize(
    ("name", "autocast", "tf32", "rate"),
    [("NVIDIA H100 80GB HBM3", True, False, 989e12), ("NVIDIA H100 PCIe", False, True, 378e12),
     ("NVIDIA A100-SXM4-40GB", False, False, 19.5e12), ("NVIDIA L40S", True, True, 362e12),
     ("NVIDIA H100 NVL", True, False, None), ("NVIDIA A100X", True, False, None), ("NVIDIA L4", True, False, None)],
)  # fmt: skip
def test_matrix_rate_is_that_of_the_precision(name, autocast, tf32, rate):
    assert hardware.matrix_rate(name, autocast=autocast, tf32=tf32) == rate
