"""The training loop: steps, validation, early stopping. It depends neither on DeepSpeed nor on MLflow."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from driftwork.errors import AgreedError
from launch.runs.config import RunConfig
from launch.training import nonfinite
from launch.training.engine import Engine, Step
from launch.training.progress import Progress
from launch.training.training_log import TrainingLog
from launch.training.watchdog import Watchdog
from models.batch import Batch
from pipeline.reading.stream import Stream

_MAX_BAD_STEPS = 20
"""Number of successive non-finite updates after which training ends with an error."""


class Around(NamedTuple):
    """Functions that the loop calls. Every rank calls each of them."""

    validate: Callable[[int], tuple[float, str]]
    """Function that returns the score at a step (lower is better) and a line about it."""
    save: Callable[[bool], None]
    """Function that saves weights and progress. If its argument is true, the weights are also saved as the best
    ones."""
    report: Callable[[int, Batch, Step], str]
    """Function that records a step that was not finite, and returns a message about it."""
    stop_requested: Callable[[], bool]
    before: Callable[[int], None] = lambda step: None
    """Function that is called before each step with the step's number."""


def train(
    run: RunConfig, engine: Engine, stream: Stream, log: TrainingLog, progress: Progress, watch: Watchdog,
    around: Around,
) -> bool:  # fmt: skip
    """Train until `max_epochs`, or until `patience` validations in a row brought no better score.

    Returns whether training is complete. If a rank is requested to save and stop, all ranks save after the step and
    return False.
    """
    while progress.epoch < run.train.max_epochs and progress.stale < run.train.patience:
        engine.module.train()
        horizon = run.horizon(progress.epoch)
        started = time.perf_counter()
        watch.at("data", progress.step)
        for batch in stream.epoch(progress.epoch, progress.epoch_step):
            loaded = time.perf_counter()
            watch.at("step")
            around.before(progress.step)
            kl_weight = run.kl_weight(progress.step)
            lr = run.lr(progress.step - progress.skipped, stream.steps * run.train.max_epochs)
            visible = batch if horizon is None else batch.first(horizon)
            step = engine.step(visible, kl_weight, lr, around.stop_requested())
            progress.took(step.applied)
            ended = time.perf_counter()
            watch.at("record", progress.step)
            if not step.applied:
                _report_nonfinite(progress, around.report(progress.step, visible, step), log)
            log.step(progress, visible, step, kl_weight, lr, data_seconds=loaded - started, step_seconds=ended - loaded)
            if step.leave or (progress.step % run.train.save_every == 0 and progress.epoch_step < stream.steps):
                around.save(False)
            if step.leave:
                return False
            started = time.perf_counter()
            watch.at("data", progress.step)
        progress.epoch, progress.epoch_step = progress.epoch + 1, 0
        if progress.epoch % run.train.validate_every == 0 or progress.epoch == run.train.max_epochs:
            _validate(run, stream, log, progress, around, horizon)
        elif progress.step % run.train.save_every == 0:
            around.save(False)
    return True


def _report_nonfinite(progress: Progress, reason: str, log: TrainingLog) -> None:
    """Log a step that was not finite, or raise an error if there were too many in a row."""
    if progress.skipped_in_a_row == _MAX_BAD_STEPS:
        raise AgreedError(
            f"{_MAX_BAD_STEPS} steps in a row were not finite, the last at step {progress.step} ({reason}; all are in "
            f"{nonfinite.FILE} of the run folder); try a smaller optim.lr"
        )
    log.write(f"step {progress.step} is skipped: {reason} not finite, see {nonfinite.FILE} in the run folder")


def _validate(
    run: RunConfig, stream: Stream, log: TrainingLog, progress: Progress, around: Around, horizon: int | None
) -> None:
    score, found = around.validate(progress.step)
    if not math.isfinite(score):
        raise AgreedError(f"the validation score at step {progress.step} is {score}; try a smaller optim.lr")
    early = not progress.settled or (horizon is not None and horizon < stream.length)
    is_best = early or score < progress.best
    if early:  # weights before training on whole sequences with the full KL are saved, but do not compete
        progress.stale = 0
    elif is_best:
        progress.best, progress.stale = score, 0
    else:
        progress.stale += 1
    log.validated(progress, found, is_best)
    around.save(is_best)  # last: the checkpoint covers what was logged
