"""Launches and kernels of a training step of published size, forward and backward, counted on the simulated
accelerator.

`python -m tests.models.card.published` prints the table of docs/loops.md: the eager form of the loops against that of a
GPU. The replay of a captured block is one launch of many kernels; every other operation is one launch of one kernel.
"""

import json
import sys
from collections import Counter, OrderedDict
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from driftwork.config_base import load
from launch.runs.config import RunConfig
from models.batch import Batch
from models.parts.likelihoods import Marginal
from models.registry import build_model
from models.solvers.choice import set_loops
from models.solvers.gpu import first_use, fused_flow, fused_sde, graphs, replay
from tests.models.card.pretended_card import NAME, Launches, end, moved, register

LAKH = ("gru_ode_lakh", "ode_rnn_lakh", "bi_gru_ode_lakh", "vsdn_vae_lakh", "vsdn_sde_lakh")
MOCAP = ("ode2vae_mocap", "neural_ode_mocap")


class Counted:
    """A stand-in for CUDA graphs that counts the kernels of a captured function, and adds them with each replay."""

    def __init__(self, launches, inside, work, device):
        self.launches, self.inside = launches, inside
        outside, launches.count = launches.count, Counter()
        work()
        self.kernels, launches.count = launches.count, outside

    def __call__(self):
        self.launches.count["replay"] += 1
        self.inside.update(self.kernels)


def case(name, **changes):
    """Return a model of published size and a batch: songs of a minute, a quarter of them observed, or whole walks."""
    config = load(RunConfig, Path(__file__).parents[3] / f"configs/train/{name}.yaml").model
    songs = name in LAKH
    B, T, D, interval = (16, 300, 128, 0.2) if songs else (16, 300, 50, 0.1)
    if getattr(config, "time_unit", 1.0) is None:
        changes = {"time_unit": interval, **changes}
    config = config.model_copy(update=changes)
    times = (torch.arange(T, dtype=torch.float64) * interval).expand(B, T).contiguous()
    present = torch.ones(B, T, dtype=torch.bool)
    quarter = torch.rand(B, T, generator=torch.Generator().manual_seed(0)) < 0.25
    observed = quarter if songs else present
    batch = Batch(times, torch.zeros(B, T, D), present, observed, torch.ones(B), torch.arange(B), ("",) * B)
    kind = "bernoulli" if songs else "gaussian"
    return build_model(config, kind, Marginal(torch.full((D,), 0.5), 1.0)), batch


def counted(model, batch, loops="auto"):
    """Return the launches and the kernels of a step, forward and backward, after all graphs were captured."""
    launches, inside = Launches(), Counter()
    set_loops(loops)
    with (
        patch.object(graphs, "CAPTURES", {NAME: partial(Counted, launches, inside)}),
        patch.object(fused_flow, "DEVICES", {NAME}),
        patch.object(fused_sde, "DEVICES", {NAME}),
        patch.object(replay, "_buckets", OrderedDict()),
        patch.object(replay, "_calls", OrderedDict()),
        patch.object(first_use, "trusted", lambda *_: True),
        launches,
    ):
        there = moved(model).train()
        given = moved(batch.planned(there.planner()))
        for _ in range(2 if loops == "auto" else 1):  # the first step captures
            launches.count.clear()
            inside.clear()
            (there(given, 0.5).loss * given.weight).sum().backward()
    set_loops("auto")
    total = sum(launches.count.values())
    return total, total - launches.count["replay"] + sum(inside.values())


CASES = {
    **{name: (name, {}) for name in (*LAKH, *MOCAP)},
    "vsdn_sde_lakh, one substep": ("vsdn_sde_lakh", {"substeps": 1}),
}


def main(names):
    """Print a line of JSON for each case: its name, and launches and kernels of the form of a GPU."""
    register()
    for label in names:
        name, changes = CASES[label]
        print(json.dumps([label, *counted(*case(name, **changes))]), flush=True)


def table():
    """Print launches and kernels in both forms."""
    register()
    print("| config | launches, eager | launches | kernels |\n|---|---|---|---|")
    for label, (name, changes) in CASES.items():
        eager, (launches, kernels) = counted(*case(name, **changes), "eager"), counted(*case(name, **changes))
        print(f"| {label} | {eager[0]:,} | {launches:,} | {kernels:,} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:]) if len(sys.argv) > 1 else table()
    end()
