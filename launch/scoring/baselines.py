"""Trivial baselines: persistence, the nearest observed frame, and linear interpolation between observed frames."""

import torch
from torch import Tensor

from models.base import frames_at, last_observed, observed_around
from models.batch import Batch


def held(batch: Batch, given: int) -> Tensor:
    """Return the persistence forecast [B, T, D]: the last observed one of the `given` first frames."""
    shown = batch.observed.clone()
    shown[:, given:] = False
    return last_observed(batch.changed(observed=shown))


def straight(batch: Batch) -> Tensor:
    """Interpolate each channel linearly in time between the observed frames, constant before the first and after the
    last: [B, T, D], 0 where nothing is observed."""
    left, right, share = _between(batch)
    return torch.lerp(left, right, share)


def nearest(batch: Batch) -> Tensor:
    """Return the observed frame that is nearest in time, the earlier of two, [B, T, D]; 0 where nothing is observed."""
    left, right, share = _between(batch)
    return torch.where(share > 0.5, right, left)


def _between(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the observed frames on both sides of each frame [B, T, D], the frame itself if it is observed, and the
    fraction of the way from the left to the right one [B, T, 1]. If there is only one of the two, it is used for
    both. Where masks are of entries, all three are of each channel, [B, T, D]."""
    before, after = observed_around(batch)
    first, last = torch.where(before < 0, after, before), torch.where(after < 0, before, after)
    times = batch.times[..., None].expand_as(before) if batch.entries else batch.times
    start, end = (times.gather(1, number.clamp_min(0)) for number in (first, last))
    share = torch.where(end > start, (times - start) / (end - start), 0.0).float()  # half-way is 0.5 exactly
    left, right = frames_at(batch, first), frames_at(batch, last)
    return left, right, (share if batch.entries else share[..., None]).to(left)
