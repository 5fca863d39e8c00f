"""Forecasts of motion capture: latent paths, a walking skeleton, and the walk as a file."""

import sys
from collections.abc import Sequence as Many
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from launch.figures import latent
from launch.figures import skeleton as figures_skeleton
from launch.figures.latent import Trial
from launch.generation import motion_files
from launch.generation.motion_files import RATE, Take
from models.base import Forecaster
from models.batch import Batch
from pipeline.readers.mocap import KEPT
from pipeline.sequence import Sequence

DRAWS = 30
"""Number of draws per trial, as many as on the poster of ODE2VAE."""
CHANNELS = {"right hip": ("rfemur", "rx"), "right knee": ("rtibia", "rx"), "left shoulder": ("lhumerus", "rx")}


@torch.inference_mode()
def write(
    folder: Path, trials: Many[Sequence], batch: Batch, forecaster: Forecaster, samples: int, title: str
) -> list[Path]:
    """Forecast the `trials`, whose frames are in `batch`, and return the files written.

    `latent` as PNG and PDF shows draws of the latent path and of some channels. `skeleton.gif` shows the first trial
    beside the mean of its draws. `truth.amc` and `forecast.amc` contain the same two motions, and `skeleton.asf` their
    skeleton. The arrays of a .mat file have no skeleton.
    """
    written = latent.draws(
        folder / "latent", _draws(trials, batch, forecaster), tuple(CHANNELS), forecaster.given, title
    )
    first = trials[0]
    if first.about is None:
        print(f"{first.key} has no skeleton (.mat), so there is no animation and no .amc", file=sys.stderr)
        return written
    forecast = forecaster.forecast(batch, samples).mean[0, : len(first.times)].cpu().numpy()
    motions = {"truth": first.values.astype(np.float32), "forecast": forecast}
    takes = [Take(folder / f"{name}.amc", name, frames) for name, frames in motions.items()]
    asf, gif = folder / "skeleton.asf", folder / "skeleton.gif"
    skeleton, walks = motion_files.write(asf, first.about, takes)
    figures_skeleton.animate(gif, walks, skeleton, RATE, f"{title}\n{first.group}, mean of {samples} draws")
    return [*written, *(take.file for take in takes), asf, gif]


def _draws(trials: Many[Sequence], batch: Batch, forecaster: Forecaster) -> list[Trial]:
    states, frames = (x.transpose(0, 1).cpu().numpy() for x in forecaster.draws(batch, range(DRAWS)))  # [B, S, T, ...]
    kept = [KEPT.index(channel) for channel in CHANNELS.values()]
    lengths = [len(trial.times) for trial in trials]
    planes = principal_plane([z[:, :T] for z, T in zip(states, lengths, strict=True)])
    return [
        Trial(trial.group, plane, trial.values[:, kept], x[:, : len(trial.times), kept])
        for trial, plane, x in zip(trials, planes, frames, strict=True)
    ]


def principal_plane(states: Many[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
    """Project states [S, T, Z] to [S, T, 2], on the two directions in which all of them together vary most."""
    rows = np.concatenate([z.reshape(-1, z.shape[2]) for z in states]).astype(np.float64)
    centre = rows.mean(0)
    _, directions = np.linalg.eigh(np.cov(rows - centre, rowvar=False))
    return [(z - centre) @ directions[:, :-3:-1] for z in states]
