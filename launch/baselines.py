"""Baselines that cost nothing: the last observed frame, the nearest, and straight lines between observed frames."""

import torch
from torch import Tensor

from models.base import last_observed
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
    T = batch.observed.shape[1]
    frame = torch.arange(T, device=batch.observed.device)
    before = torch.where(batch.observed, frame, -1).cummax(1).values
    after = torch.where(batch.observed, frame, T).flip(1).cummin(1).values.flip(1)
    first = torch.where(before < 0, after, before).clamp_max(T - 1)  # nothing is observed where it has to be clamped,
    last = torch.where(after == T, before, after).clamp_min(0)  # and values are 0
    start, end = batch.times.gather(1, first), batch.times.gather(1, last)
    share = torch.where(end > start, (batch.times - start) / (end - start), 0.0).float()  # half-way is 0.5 exactly
    shown = torch.where(batch.observed[..., None], batch.values, 0.0)
    left, right = (shown.gather(1, i[..., None].expand_as(shown)) for i in (first, last))
    return left, right, share[..., None].to(shown)
