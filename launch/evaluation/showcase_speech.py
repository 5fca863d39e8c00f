"""Interpolations of a second of held-out speech: a figure, and files to listen to."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from launch.figures import speech as figures_speech
from launch.figures.speech import Speech
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from models.base import LatentDynamics, Smoother
from models.batch import Batch
from pipeline.readers.wav import FULL_SCALE, write_wav
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest

DRAWS = 50
"""Number of draws of the latent path for the band."""


def write(
    folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: LatentDynamics | Smoother
) -> list[Path]:
    """Interpolate a second of the first batch of `split` at the lowest rate, and return the files written.

    `interpolation.png` and `.pdf` show waveforms and spectrograms; `truth.wav`, `observed.wav` (silence elsewhere) and
    `interpolation.wav` are the sounds of the spectrograms.
    """
    rate = manifest.spec.audio_rate
    assert rate is not None, "the data are speech"
    percent, stream = next(iter(loaders.evaluation(config, config.data, manifest, split, alone()).items()))
    batch = typical(next(stream.epoch(0)))
    speech = answers(model, batch, rate)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{config.model.name} on {batch.keys[0]} ({split}), {percent} % of the frames observed"
    written = figures_speech.interpolation(folder / "interpolation", speech, title)
    for name, samples in (("truth", speech.truth), ("observed", speech.kept), ("interpolation", speech.filled)):
        written.append(folder / f"{name}.wav")
        write_wav(written[-1], samples, rate)
    return written


def compare(
    folder: Path, config: RunConfig, manifest: Manifest, split: Split, models: Mapping[str, LatentDynamics | Smoother]
) -> list[Path]:
    """Interpolate the same second with each of `models`, and return the files written.

    `interpolation.png` and `.pdf` show all models on one panel around the loudest instant. `NAME.wav` is the
    interpolation of a model; `truth.wav` is for comparison.
    """
    rate = manifest.spec.audio_rate
    assert rate is not None, "the data are speech"
    percent, stream = next(iter(loaders.evaluation(config, config.data, manifest, split, alone()).items()))
    batch = typical(next(stream.epoch(0)))
    speeches = {name: answers(model, batch, rate) for name, model in models.items()}
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{batch.keys[0]} ({split}), {percent} % of the frames observed"
    written = figures_speech.together(folder / "interpolation", speeches, title)
    truth = next(iter(speeches.values())).truth
    for name, samples in {"truth": truth, **{name: speech.filled for name, speech in speeches.items()}}.items():
        written.append(folder / f"{name}.wav")
        write_wav(written[-1], samples, rate)
    return written


def typical(batch: Batch) -> Batch:
    """Return a batch of one sequence: the one of median loudness among the longest, which is neither a pause nor an
    outlier.
    """
    frames = batch.present.sum(1)
    longest = (frames == frames.max()).nonzero()[:, 0]
    loudness = batch.values[longest].square().sum((1, 2))
    b = int(longest[loudness.argsort()[len(loudness) // 2]])
    return batch.rows(slice(b, b + 1))


@torch.inference_mode()
def answers(model: LatentDynamics | Smoother, batch: Batch, rate: int) -> Speech:
    """Return the interpolation and the prediction of the only sequence of `batch`, from `DRAWS` draws with noise from
    its seed."""
    one = batch.to(next(model.parameters()).device)
    interpolated = _samples(model.interpolate(one.draws(one.seed + torch.arange(DRAWS).to(one.seed)), 1).mean)
    predicted = None if isinstance(model, Smoother) else _samples(model.predict(one, DRAWS).mean)[0]
    if np.ptp(interpolated, axis=0).max() < 0.5 / FULL_SCALE:  # a model without a latent; rows differ by rounding
        interpolated = interpolated[:1]
    D = batch.values.shape[2]
    return Speech(
        truth=_samples(batch.values)[0], observed=batch.observed[0].numpy().repeat(D),
        interpolated=interpolated, predicted=predicted, rate=rate,
    )  # fmt: skip


def _samples(frames: Tensor) -> np.ndarray:
    """Reshape frames [B, T, D] to samples [B, T D]."""
    array: np.ndarray = frames.flatten(1).cpu().numpy()
    return array
