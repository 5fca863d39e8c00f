"""Time grids of the solvers. Every sequence has its own grid, which contains the sequence's observation times.

A grid starts at clock 0 and advances in steps of `max_step`; the last step before an observation is shortened so that
it ends there. It depends on past observation *times* only, so that neither a later observation nor a requested time in
between changes a state. States between grid points are found by linear interpolation, which for an Euler step is the
same as taking a shorter step.

The clock is model time in units of `time_unit`: since the first frame for a forward pass, until the last one for a
backward pass.

`build` runs on the host, in numpy: the number of steps depends on the times, and the host would wait for a device.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TOLERANCE = 1e-3  # of a step: times given in decimal seconds are no exact multiples of it


class TimeGrid(NamedTuple):
    """Time grids of B sequences with M steps and K events."""

    dt: Tensor
    """[B, M] length of each step in units of the clock; 0 for steps that pad a sequence to the longest one."""
    end: Tensor
    """[B, M] clock at the end of each step, non-decreasing."""
    event: Tensor
    """[B, M] int64: index of the observation event at the end of the step, or K if there is none."""
    stop: Tensor
    """[B, K] int64: index of the step that ends at each event; 0 for padding."""


def build(clock: Tensor, valid: Tensor, horizon: Tensor, max_step: float, multiple: int = 1) -> TimeGrid:
    """Build a grid for each sequence through its events and on to its horizon, on the host.

    Args:
        clock: [B, K] event times, increasing among the valid ones of a row.
        valid: [B, K] bool, which entries are events.
        horizon: [B] clock at which the grid ends, at or after the last event.
        max_step: longest step, in units of the clock.
        multiple: M is padded to a multiple of this number by steps of length 0.
    """
    return TimeGrid(*map(torch.from_numpy, _build(clock.numpy(), valid.numpy(), horizon.numpy(), max_step, multiple)))


def _build(
    clock: NDArray[np.float64], valid: NDArray[np.bool_], horizon: NDArray[np.float64], max_step: float, multiple: int
) -> tuple[NDArray[np.generic], ...]:
    B, K = clock.shape
    # Padding takes the clock of the event before it: an interval of no length and, below, of no steps.
    knots = np.concatenate([np.maximum.accumulate(np.where(valid, clock, 0.0), 1), horizon[:, None]], 1)
    before = np.concatenate([np.zeros_like(knots[:, :1]), knots[:, :-1]], 1)
    steps = np.maximum(np.ceil((knots - before) / max_step - _TOLERANCE), 0).astype(np.int64)
    steps[:, :K] = np.where(valid, np.maximum(steps[:, :K], 1), 0)  # an event at clock 0 still needs its step
    total = steps.cumsum(1)
    M = padded_to(max(int(total[:, -1].max()), 1), multiple)

    m = np.arange(M)
    within = m < total[:, -1:]  # beyond it the sequence has ended
    interval = np.full((B, M), K)
    interval[within] = np.repeat(np.tile(np.arange(K + 1), B), steps.ravel())
    order = m - np.take_along_axis(total - steps, interval, 1)  # which step of its interval
    last = within & (order == np.take_along_axis(steps, interval, 1) - 1)
    start = np.take_along_axis(before, interval, 1) + order * max_step
    end = np.where(last, np.take_along_axis(knots, interval, 1), start + max_step)
    end = np.where(within, end, horizon[:, None])
    dt = np.where(within, end - start, 0.0)
    return dt, end, np.where(last, interval, K), np.maximum(total[:, :K] - 1, 0)


def padded_to(count: int, multiple: int) -> int:
    """Return the least multiple that is at least `count`."""
    return -(-count // multiple) * multiple


def refine(grid: TimeGrid, substeps: int) -> TimeGrid:
    """Divide each step into `substeps` equal ones; an event is at the end of the last."""
    if substeps == 1:
        return grid
    K, after = grid.stop.shape[1], torch.arange(substeps - 1, -1, -1, device=grid.dt.device)  # steps to come
    dt = (grid.dt / substeps)[..., None].expand(-1, -1, substeps)
    event = torch.where(after == 0, grid.event[..., None], K)
    end = grid.end[..., None] - dt * after  # exact at the last, where the event is
    return TimeGrid(dt.flatten(1), end.flatten(1), event.flatten(1), grid.stop * substeps + substeps - 1)


def locate(grid: TimeGrid, clock: Tensor) -> tuple[Tensor, Tensor]:
    """Find the requested times `clock` [B, Q] on the grid.

    Returns:
        step [B, Q], the step that ends at or after the requested time, and fraction [B, Q], the fraction of this step
        before the time. At a grid point it is 1, so that a time at an event gives the state just *before* the event.
    """
    step = torch.searchsorted(grid.end.contiguous(), clock.contiguous()).clamp_max(grid.end.shape[1] - 1)
    dt = grid.dt.gather(1, step)
    remaining = grid.end.gather(1, step) - clock
    fraction = (1.0 - remaining / dt.clamp_min(1e-12)).masked_fill(dt <= 0, 1.0).clamp(0.0, 1.0)
    return step, fraction
