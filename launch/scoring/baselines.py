"""Baselines that cost nothing: the last observed frame, the nearest, and straight lines between observed frames."""

import torch
from torch import Tensor

from models.base import frames_at, last_observed, observed_around
from models.batch import Batch


def held(batch: Batch, given: int) -> Tensor:
    """Persistence as a forecast: the last that was observed of the `given` first frames, [B, T, D]."""
    shown = batch.observed.clone()
    shown[:, given:] = False
    return last_observed(batch._replace(observed=shown))


def straight(batch: Batch) -> Tensor:
    """Each channel on straight lines in time between the observed frames, and constant before the first and after the
    last, [B, T, D]; 0 where nothing is observed."""
    left, right, share = _between(batch)
    return torch.lerp(left, right, share)


def nearest(batch: Batch) -> Tensor:
    """The observed frame that is nearest in time, of two the earlier, [B, T, D]; 0 where nothing is observed."""
    left, right, share = _between(batch)
    return torch.where(share > 0.5, right, left)


def _between(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of each frame the observed frames on both sides [B, T, D], itself if it is one, and how far it is on its way from
    the left to the right one, [B, T, 1]; where there is one of the two alone, it stands for both."""
    before, after = observed_around(batch)
    first, last = torch.where(before < 0, after, before), torch.where(after < 0, before, after)
    start, end = (batch.times.gather(1, number.clamp_min(0)) for number in (first, last))
    share = torch.where(end > start, (batch.times - start) / (end - start), 0.0).float()  # half-way is 0.5 exactly
    left, right = frames_at(batch, first), frames_at(batch, last)
    return left, right, share[..., None].to(left)
