"""Times at which the loop saves, with an engine and a stream that do nothing."""

import pytest
import torch

from driftwork.config_base import load
from launch.runs.config import RunConfig
from launch.training import loop
from launch.training.engine import Step
from launch.training.progress import Progress
from launch.training.watchdog import Watchdog
from models.base import Objective, Terms
from tests.places import tiny

STEPS = 4
"""Steps of an epoch."""


class Engine:
    module = torch.nn.Identity()

    def step(self, batch, kl_weight, lr, leave):
        return Step(Objective(torch.zeros(1), Terms(*torch.zeros(3, 1))), applied=True, grad_norm=1.0, leave=leave)


class Stream:
    steps, length = STEPS, 20

    def epoch(self, epoch, first_step):
        yield from range(first_step, STEPS)


class TrainingLog:
    def step(self, *args, **times): ...
    def validated(self, *args): ...


def trained(scores, *overrides, **state):
    """Return the progress after validations with these scores, one per epoch, and which of them were saved as best."""
    run = load(RunConfig, tiny("vsdn_vae"), ["data=x", *overrides])
    progress, best, left = Progress(**state), [], iter(scores)
    around = loop.Around(
        validate=lambda step: (next(left), ""), save=best.append, report=lambda *args: "", stop_requested=lambda: False
    )
    assert loop.train(run, Engine(), Stream(), TrainingLog(), progress, Watchdog(0), around)
    return progress, best


def test_validations_during_warmup_do_not_compete():
    """The KL has its full weight after 8 steps, two epochs: the first score that counts is the second, and patience
    ends with the two after the fourth. Scores during the warm-up are better, since their KL has little weight."""
    progress, best = trained(
        [1.0, 5.0, 6.0, 4.0, 4.5, 4.2, 3.0], "train.max_epochs=7", "train.patience=2", settles_at=8
    )
    assert best == [True, True, False, True, False, False]
    assert (progress.best, progress.stale, progress.step) == (4.0, 2, 24)


def test_earlier_run_counts_all_scores():
    """Checkpoints of an earlier version do not store the step from which scores count, so all scores count."""
    progress, best = trained([1.0, 5.0, 6.0], "train.max_epochs=7", "train.patience=2")
    assert best == [True, False, False]
    assert (progress.best, progress.score_beta) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("every", "saved"),
    [(3, [3, 6, 9, 12, 15]), (4, [4, 8, 12, 16]), (8, [8, 12, 16]), (100, [12, 16])],
)
def test_checkpoints_are_written_at_intervals(every, saved):
    """Epochs 3 and 4 end in a validation; every fourth step ends an epoch."""
    found = []
    overrides = ["data=x", "train.max_epochs=4", "train.validate_every=3", f"train.save_every={every}"]
    run = load(RunConfig, tiny("vsdn_vae"), overrides)
    progress = Progress()
    around = loop.Around(
        validate=lambda step: (1.0, ""), save=lambda is_best: found.append(progress.step),
        report=lambda *args: "", stop_requested=lambda: False,
    )  # fmt: skip
    assert loop.train(run, Engine(), Stream(), TrainingLog(), progress, Watchdog(0), around)
    assert found == sorted({*saved, 16})
