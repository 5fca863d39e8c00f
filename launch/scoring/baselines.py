"""Trivial baselines: persistence, the nearest observed frame, and linear interpolation between observed frames."""

import torch
from torch import Tensor

from models.batch import Batch, Between, last_observed


def held(batch: Batch, given: int) -> Tensor:
    """Return the persistence forecast [B, T, D]: the last observed one of the `given` first frames."""
    shown = batch.observed.clone()
    shown[:, given:] = False
    return last_observed(batch.changed(observed=shown))


def straight(batch: Batch) -> Tensor:
    """Interpolate each channel linearly in time between the observed frames, constant before the first and after the
    last: [B, T, D], 0 where nothing is observed."""
    return Between.of(batch, own=True).line


def nearest(batch: Batch) -> Tensor:
    """Return the observed frame that is nearest in time, the earlier of two, [B, T, D]; 0 where nothing is observed."""
    left, right, share, _ = Between.of(batch, own=True)
    return torch.where(share > 0.5, right, left)
