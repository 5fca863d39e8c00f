"""Interpolations of one held-out piece: a figure, and files to listen to."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from launch.figures import rolls
from launch.figures.rolls import Guess
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from models.base import LatentDynamics, Smoother
from models.batch import Batch, last_observed
from models.decisions import completed
from pipeline.readers.piano_roll import write_midi
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest


def write(
    folder: Path, config: RunConfig, manifest: Manifest, split: Split, models: Mapping[str, LatentDynamics | Smoother]
) -> list[Path]:
    """Interpolate one piece of `split` at the lowest rate with each of `models`, and return the files written.

    `interpolation.png` and `.pdf` show truth, observed frames and every reconstruction. `NAME.mid` is the
    reconstruction of a model; `truth.mid` and `copied.mid` (each observed frame held until the next) are for
    comparison.
    """
    rate = 1 / manifest.spec.interval
    percent, stream = next(iter(loaders.evaluation(config, config.data, manifest, split, alone()).items()))
    batch = longest(next(stream.epoch(0)))
    copied = torch.where(batch.observed[..., None], batch.values, last_observed(batch))
    rows = {name: reconstruct(model, batch, config.evaluate.samples) for name, model in models.items()}
    notes = {name: _roll(completed(x, batch.observed, "expected_score")) for name, x in rows.items()}
    truth, held = _roll(batch.values > 0.5), _roll(copied > 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = rolls.interpolation(
        folder / "interpolation", truth=truth, observed=batch.observed[0].numpy(),
        rows=[
            *(Guess(name, x[0].numpy(), notes[name]) for name, x in rows.items()),
            Guess("last observed frame", copied[0].numpy(), held),
        ],
        rate=rate, title=f"{batch.keys[0]} ({split}), {percent} % of the frames observed",
    )  # fmt: skip
    pieces = []
    for name, roll in {**notes, "truth": truth, "copied": held}.items():
        pieces.append(folder / f"{name}.mid")
        write_midi(pieces[-1], roll, rate)
    return pictures + pieces


def longest(batch: Batch) -> Batch:
    """Return a batch of the longest sequence alone."""
    b = int(batch.present.sum(1).argmax())
    return batch.rows(slice(b, b + 1))


@torch.inference_mode()
def reconstruct(model: LatentDynamics | Smoother, batch: Batch, samples: int) -> torch.Tensor:
    """Return probabilities [1, T, D]: observed frames unchanged, the rest interpolated."""
    device = next(model.parameters()).device
    filled = model.interpolate(batch.to(device), samples).mean.cpu()
    return torch.where(batch.observed[..., None], batch.values, filled)


def _roll(notes: torch.Tensor) -> NDArray[np.bool_]:
    """Return the only sequence [T, D] of a batch [1, T, D]."""
    roll: NDArray[np.bool_] = notes[0].numpy()
    return roll
