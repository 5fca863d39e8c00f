"""The grids of recurrent models: the observed frames of each sequence, and the steps of each pass through them.

They depend only on times and masks, and are computed on the host (`Batch.plan`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Batch, Plan
from models.solvers import timegrid
from models.solvers.timegrid import TimeGrid


class Kept(NamedTuple):
    """A batch without its held-out frames or entries."""

    observed: Tensor
    """Mask of the frames or entries that are kept, of the shape of the batch's mask."""
    plan: Plan


class Grids(NamedTuple):
    """Grids of B sequences with K events."""

    frame: Tensor
    """[B, K] int64, index of the frame of each event."""
    valid: Tensor
    """[B, K] bool; False marks padding."""
    steps: TimeGrid
    """Steps of all passes, [passes * B, ...]; events are numbered forward in time in each pass."""
    kept: Kept | None = None
    """Grids of the batch without its held-out part; None for a model that holds nothing out."""


def grids_of(
    batch: Batch, passes: int, max_step: float, time_unit: float, multiple: int = 1,
    keep: Callable[[Batch], Batch] | None = None,
) -> Grids:  # fmt: skip
    """Compute the grids of a batch on the host.

    Args:
        passes: 1 forward in time, 2 also backward.
        max_step: longest step, seconds. time_unit: seconds that make one unit of the clock.
        multiple: the numbers of events and steps are padded to multiples of this number.
        keep: function that returns a batch without its held-out part; None if nothing is held out.
    """
    R, (frame, valid) = passes, frames_of(batch.frames_observed, multiple)
    B, K = frame.shape
    clock = torch.stack([clock_of(batch, d, time_unit).gather(1, frame) for d in range(R)])
    # The order in which a pass meets the events: the backward one starts with the last.
    ahead = torch.arange(K)
    order = torch.stack([ahead, ahead.flip(0)])[:R, None].expand(R, B, K).reshape(R * B, K)
    steps = timegrid.build(
        clock.view(R * B, K).gather(1, order), valid.repeat(R, 1).gather(1, order),
        horizon_of(batch, time_unit).repeat(R), max_step / time_unit, multiple,
    )  # fmt: skip
    event = torch.cat([order, torch.full_like(order[:, :1], K)], 1).gather(1, steps.event)
    steps = steps._replace(event=event, stop=steps.stop.gather(1, order))
    if keep is None:
        return Grids(frame, valid, steps)
    rest = keep(batch)
    plan = Plan.of(rest, grids_of(rest, passes, max_step, time_unit, multiple))
    return Grids(frame, valid, steps, Kept(rest.observed, plan))


def frames_of(observed: Tensor, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Return the indices of the observed frames of a mask [B, T], packed to the front, and a mask of the valid ones.

    Both are [B, K]. K is the largest number of observed frames of a sequence, at least 1."""
    count = observed.sum(1)
    K = timegrid.padded_to(max(int(count.max()), 1), multiple)
    frame = torch.argsort((~observed).to(torch.int8), dim=1, stable=True)[:, :K]
    frame = F.pad(frame, (0, K - frame.shape[1]))
    return frame, torch.arange(K, device=frame.device) < count[:, None]


def horizon_of(batch: Batch, time_unit: float) -> Tensor:
    """Return the model time [B] of the end of each sequence."""
    return batch.times[:, -1] / time_unit  # padding repeats the last time


def clock_of(batch: Batch, direction: int, time_unit: float) -> Tensor:
    """Return the model time [B, T] of every frame: since the start or, in direction 1, until the end."""
    clock = batch.times / time_unit
    return clock if direction == 0 else horizon_of(batch, time_unit)[:, None] - clock
