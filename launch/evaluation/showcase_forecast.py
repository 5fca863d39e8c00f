"""Forecasts of held-out sequences: the error over time and, for the first few, figures that suit the data."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from launch.evaluation import showcase_motion
from launch.figures import error as figures_error
from launch.figures import pictures
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring import baselines
from launch.scoring.draws import Draws
from models.base import Forecaster, Model
from models.batch import Batch
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest

SHOWN = 4
"""Number of sequences that are drawn: the first of the split, not selected by quality."""


def write(folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: Model) -> list[Path]:
    """Forecast the sequences of `split`, and return the files written.

    `forecast-error` as PNG and PDF shows the error over time. For pictures there are also `strips`; for motion see
    `showcase_motion.write`.
    """
    draws = Draws.of(config.evaluate)
    given = model.given if isinstance(model, Forecaster) else config.observe.evaluate.frames
    assert given is not None, "the model does not forecast"
    stream = next(iter(loaders.evaluation(config, config.data, manifest, split, alone()).values()))
    device = next(model.parameters()).device
    batches = (batch.to(device) for batch in stream.epoch(0))
    errors = squared_errors(model, given, batches, draws, manifest.spec.length)
    batch = next(stream.epoch(0)).to(device)
    shown = batch.rows(slice(SHOWN))
    title = f"{config.model.name} on {manifest.dataset}, {split} split"
    folder.mkdir(parents=True, exist_ok=True)
    written = figures_error.over_time(folder / "forecast-error", errors, given, title)
    if manifest.spec.image is not None:
        with torch.inference_mode():
            forecast = draws.forecast(model, shown).mean
        written += pictures.strips(
            folder / "strips", keys=shown.keys, truth=_numpy(shown.values), present=_numpy(shown.present),
            forecast=_numpy(forecast), image=manifest.spec.image, given=given,
            title=f"{title}, mean of {draws.behind(model)} draws",
        )  # fmt: skip
    if manifest.spec.kind == "motion" and isinstance(model, Forecaster):
        sequences = [stream.dataset.read(position) for position in range(len(shown.keys))]
        written += showcase_motion.write(folder, sequences, shown, model, draws.samples, title)
    return written


@torch.inference_mode()
def squared_errors(
    model: Model, given: int, batches: Iterable[Batch], draws: Draws, length: int
) -> dict[str, NDArray[np.float64]]:
    """Return the squared error [N, T - given] of each kind of forecast, mean over channels; NaN for missing frames.

    Args:
        given: number of first frames that the model observes. length: T, frames of the longest sequence.
    """
    errors: dict[str, list[NDArray[np.float64]]] = {}
    for batch in batches:
        forecast = draws.forecast(model, batch)
        forecasts = {f"mean of {draws.behind(model)} draws": forecast.mean}
        if forecast.path is not None:
            forecasts["path of the posterior's mean"] = forecast.path
        forecasts["persistence"] = baselines.held(batch, given)
        for name, frames in forecasts.items():
            error = (frames - batch.values).square().mean(2).double()
            padded = np.full((len(error), length), np.nan)
            padded[:, : error.shape[1]] = _numpy(error.masked_fill(~batch.present, torch.nan))
            errors.setdefault(name, []).append(padded[:, given:])
    return {name: np.concatenate(parts) for name, parts in errors.items()}


def _numpy(x: torch.Tensor) -> np.ndarray:
    array: np.ndarray = x.cpu().numpy()
    return array
