"""The training loop: steps, validation, early stopping. It knows neither DeepSpeed nor MLflow by name."""

import math
import time
from collections.abc import Callable

from launch.config import RunConfig
from launch.engine import Engine
from launch.journal import Journal
from launch.progress import Progress
from models.errors import DriftworkError
from pipeline.stream import Stream

_MAX_BAD_STEPS = 20
"""Updates in a row that may fail to be finite before training gives up."""


def train(
    run: RunConfig, engine: Engine, stream: Stream, journal: Journal, progress: Progress,
    validate: Callable[[int], tuple[float, str]], save: Callable[[bool], None],
) -> None:  # fmt: skip
    """Train until `max_epochs`, or until `patience` validations brought no better score.

    `validate(step)` gives the score, lower is better, and a line about it; `save(is_best)` keeps weights and progress.
    """
    bad_steps = 0
    while progress.epoch < run.train.max_epochs and progress.stale < run.train.patience:
        engine.module.train()
        horizon = run.horizon(progress.epoch)
        started = time.perf_counter()
        for batch in stream.epoch(progress.epoch, progress.epoch_step):
            loaded = time.perf_counter()
            kl_weight = run.kl_weight(progress.step)
            step = engine.step(batch if horizon is None else batch.first(horizon), kl_weight)
            progress.step += 1
            progress.epoch_step += 1
            bad_steps = 0 if step.applied else bad_steps + 1
            if bad_steps == _MAX_BAD_STEPS:
                raise DriftworkError(
                    f"{bad_steps} steps in a row were not finite, the last at step {progress.step} "
                    f"(sequences {', '.join(batch.keys[:4])} ...); a smaller optim.lr may help"
                )
            ended = time.perf_counter()
            journal.step(progress, batch, step, kl_weight, data_seconds=loaded - started, step_seconds=ended - loaded)
            if progress.step % run.train.save_every == 0 and progress.epoch_step < stream.steps:
                save(False)
            started = time.perf_counter()
        progress.epoch, progress.epoch_step = progress.epoch + 1, 0
        if progress.epoch % run.train.validate_every == 0 or progress.epoch == run.train.max_epochs:
            score, found = validate(progress.step)
            if not math.isfinite(score):
                raise DriftworkError(f"the validation score at step {progress.step} is {score}; try a smaller optim.lr")
            growing = horizon is not None and horizon < stream.length
            is_best = growing or score < progress.best
            if growing:  # what has not been trained on whole sequences yet is kept, but competes with nothing
                progress.stale = 0
            elif is_best:
                progress.best, progress.stale = score, 0
            else:
                progress.stale += 1
            save(is_best)
            journal.validated(progress, found, is_best)
