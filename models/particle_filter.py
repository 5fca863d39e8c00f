"""A particle filter (Gordon, Salmond and Smith, 1993), which represents the distribution of a state given the
observations so far by S weighted draws.

Particles move by the model's own steps, or by a proposal whose importance weights correct for it. At an observation the
weight of each is multiplied by P(Y_n | X_n, past), and P(Y_n | past) is estimated by the weighted mean of these. The
product of the estimates is an unbiased estimate of the likelihood of all observations. All particles are resampled
systematically (Kitagawa, 1996) when the effective sample size 1 / sum_k w_k^2 falls below S / 2.

Sequences are filtered independently, each with noise keyed by its seed (`noise`). So the result depends neither on
later observations nor on other sequences of the batch. Use double precision: a difference of rounding, which depends on
the shape of a batch, can make resampling select another particle.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.parts.noise import keyed_uniform
from models.solvers import sde, timegrid
from models.solvers.timegrid import TimeGrid

_RESAMPLING = 1 << 22
"""Stream of a sequence's noise for resampling; paths and frames use smaller numbers."""
_LEAST_SHARE = 0.5
"""Effective sample size, as a fraction of the particles, below which they are resampled."""


class Cloud(NamedTuple):
    """S weighted particles of each of B sequences, and the evidence of the observations so far."""

    x: Tensor
    """[S, B, Z] particles."""
    log_weights: Tensor
    """[B, S] log weights; the weights sum to 1 over S."""
    log_evidence: Tensor
    """[B] estimate of log P(observations so far), nats."""
    effective: Tensor
    """[B] effective sample size, summed over the observations so far."""

    @classmethod
    def at(cls, x: Tensor) -> "Cloud":
        """Return particles x [S, B, Z] of equal weight, before any observation."""
        S, B, _ = x.shape
        return cls(x, x.new_full((B, S), -math.log(S)), x.new_zeros(B), x.new_zeros(B))

    def moved(self, x: Tensor, log_ratio: Tensor) -> "Cloud":
        """Move the particles to x [S, B, Z] and update their weights by `log_ratio` [S, B].

        `log_ratio` is the log density of the moves under the model minus that under the proposal. The weights do not
        sum to 1 until the next observation."""
        return self._replace(x=x, log_weights=self.log_weights + log_ratio.T)

    def observe(self, log_likelihood: Tensor, here: Tensor, uniform: Tensor) -> "Cloud":
        """Weight the particles by an observation, and resample those of sequences with a small effective sample size.

        Args:
            log_likelihood: [S, B], in nats. here: [B] bool, which sequences have an observation.
            uniform: [B], in (0, 1), see `systematic`.
        """
        S, here = len(self.x), here[:, None]
        # Contiguous, so that each sequence is summed in the same way in any batch.
        joint = self.log_weights + torch.where(here, log_likelihood.T, 0.0).contiguous()
        evidence = torch.where(here, joint.logsumexp(1, keepdim=True), 0.0)
        log_weights = joint - evidence
        effective = torch.where(here, (-(2 * log_weights).logsumexp(1, keepdim=True)).exp(), S)
        few = effective < _LEAST_SHARE * S
        drawn = systematic(log_weights.exp(), uniform[:, None])
        x = torch.where(few[None], self.x.gather(0, drawn.T[..., None].expand_as(self.x)), self.x)
        return Cloud(
            x,
            torch.where(few, -math.log(S), log_weights),
            self.log_evidence + evidence[:, 0],
            self.effective + torch.where(here, effective, 0.0)[:, 0],
        )


class FilterState(NamedTuple):
    """State from which a filter of further observations continues.

    It is the state after the last observation, or before it where no frame follows: the filter that continues then
    takes this observation again."""

    step: int
    """First step of the grid that is still to be taken."""
    cloud: Cloud


class Stretch(NamedTuple):
    """Consecutive steps of a filter, with observations only at the end of the last."""

    steps: slice
    frames: slice
    """Frames within the stretch, in the order of all frames by their steps."""
    paths: sde.Solution
    before: Cloud
    """Particles at the start of the first step."""
    after: Cloud
    """Particles after the observations at the end of the last step."""


def systematic(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return indices of resampled particles, [B, S] int64, non-decreasing.

    Particle k occurs S w_k times, rounded up or down.

    Args:
        weights: [B, S], sum to 1 over S up to rounding.
        uniform: [B, 1], uniform on (0, 1), so that the mean count of particle k is S w_k.
    """
    S = weights.shape[1]
    total = weights.cumsum(1)
    points = (torch.arange(S, device=weights.device) + uniform) / S
    return torch.searchsorted(total / total[:, -1:], points).clamp_max(S - 1)


def uniforms(seed: Tensor, events: int) -> Tensor:
    """Draw [B, events] float64 in (0, 1), for the resampling at each event of sequences with these seeds [B]."""
    return keyed_uniform(seed, events, _RESAMPLING)


def stretches_of(grid: TimeGrid, clock: Tensor, substeps: int, first: int, count: int) -> list[tuple[slice, slice]]:
    """Divide a filter's steps into stretches that end wherever any sequence has an event. All tensors are on the host.

    Args:
        grid: grids whose every step the filter takes in `substeps`.
        clock: [B, T] times at which the particles are read.
        first: the first step of the filter. count: the number of its steps from 0 on.

    Returns:
        For each stretch its steps, and which of all B * T times lie in them, in the order of their steps.
    """
    ends = ((1 + (grid.event < grid.stop.shape[1]).any(0).nonzero()[:, 0]) * substeps).tolist()
    stops = torch.tensor([first, *(end for end in ends if first < end < count), count])
    step = timegrid.locate(grid, clock)[0].flatten().sort().values * substeps
    pairs = itertools.pairwise(stops.tolist()), itertools.pairwise(torch.searchsorted(step, stops).tolist())
    return [(slice(*steps), slice(*times)) for steps, times in zip(*pairs, strict=True)]
