"""When the loop saves, with an engine and a stream that do nothing."""

from pathlib import Path

import pytest
import torch

from launch.config import RunConfig
from launch.training import loop
from launch.training.engine import Step
from launch.training.progress import Progress
from launch.training.watchdog import Watchdog
from models.base import Objective, Terms
from models.config_base import load

STEPS = 4
"""Of an epoch."""


class Engine:
    module = torch.nn.Identity()

    def step(self, batch, kl_weight, lr, leave):
        return Step(Objective(torch.zeros(1), Terms(*torch.zeros(3, 1))), applied=True, grad_norm=1.0, leave=leave)


class Stream:
    steps, length = STEPS, 20

    def epoch(self, epoch, first_step):
        yield from range(first_step, STEPS)


class Journal:
    def step(self, *args, **times): ...
    def validated(self, *args): ...


@pytest.mark.parametrize(
    ("every", "saved"),
    [(3, [3, 6, 9, 12, 15]), (4, [4, 8, 12, 16]), (8, [8, 12, 16]), (100, [12, 16])],
)
def test_a_checkpoint_is_written_every_so_many_steps_and_once_where_a_validation_writes_it(every, saved):
    """Epochs 3 and 4 end in a validation; every fourth step ends an epoch."""
    found = []
    overrides = ["data=x", "train.max_epochs=4", "train.validate_every=3", f"train.save_every={every}"]
    run = load(RunConfig, Path(__file__).with_name("tiny_vsdn_vae.yaml"), overrides)
    progress = Progress()
    around = loop.Around(
        validate=lambda step: (1.0, ""), save=lambda is_best: found.append(progress.step),
        report=lambda *args: "", asked_to_leave=lambda: False,
    )  # fmt: skip
    assert loop.train(run, Engine(), Stream(), Journal(), progress, Watchdog(0), around)
    assert found == sorted({*saved, 16})
