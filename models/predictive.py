"""The predictive distribution of each frame: a mixture of the likelihood over draws of the latent."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.parts.likelihoods import Density, RealValued

_VALUES_AT_ONCE = 2**20
"""Maximum components times channels whose pairwise distances are computed together; each takes a few numbers."""

_HALVINGS = 32


class Predictive:
    """P(Y_t | observations) = sum_s w_s P(Y_t | parameters_s), a mixture over S weighted draws of the latent.

    A draw is decoded each time it is needed and not kept, so that a mean of many draws takes the memory of one.
    Evaluate it under the same `torch.no_grad` or `torch.inference_mode` as the model that it comes from.
    """

    def __init__(
        self,
        likelihood: Density,
        parameters: Callable[[int], Tensor],
        draws: int,
        log_weights: Tensor | None = None,
    ) -> None:
        """Describe the mixture.

        Args:
            likelihood: distribution of a frame given its parameters.
            parameters: function from the number of a draw to the likelihood's parameters [B, T, width].
            draws: S.
            log_weights: [S, B, T], whose exponentials sum to 1 over S; None gives all draws the same weight.
        """
        self.likelihood, self.draws = likelihood, draws
        self._parameters, self._log_weights = parameters, log_weights

    def __getitem__(self, frames: Any) -> "Predictive":
        """Return the predictive of some frames only: `frames` indexes [B, T] as it would a tensor of that shape."""
        index = frames if isinstance(frames, tuple) else (frames,)
        weights = None if self._log_weights is None else self._log_weights[(slice(None), *index)]
        return Predictive(self.likelihood, lambda s: self._parameters(s)[frames], self.draws, weights)

    def components(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each draw's parameters [B, T, width] and log weight, [B, T] or a scalar."""
        for s in range(self.draws):
            parameters = self._parameters(s)
            equal = parameters.new_tensor(-math.log(self.draws))
            yield parameters, equal if self._log_weights is None else self._log_weights[s]

    def component(self, frame: int, uniform: Tensor) -> Tensor:
        """Return the parameters [B, width] of a frame under one draw, picked in each row by the weights at the frame.

        Args:
            uniform: [B], in (0, 1).
        """
        rows, last = range(len(uniform)), self.draws - 1
        if self._log_weights is None:
            picked = (uniform * self.draws).long().clamp_max(last)
        else:
            total = self._log_weights[:, :, frame].T.double().exp().cumsum(1)
            points = uniform.double()[:, None].contiguous()
            picked = torch.searchsorted(total / total[:, -1:], points)[:, 0].clamp_max(last)
        return torch.stack([self._parameters(s)[row, frame] for row, s in zip(rows, picked.tolist(), strict=True)])

    @cached_property
    def mean(self) -> Tensor:
        """Expectation E[Y_t] [B, T, D]; for binary frames, the probability of a 1."""
        expectations = (self.likelihood.expectation(parameters) for parameters, _ in self.components())
        if self._log_weights is None:
            return _sum(expectations) / self.draws
        return _sum(w.exp()[..., None] * x for w, x in zip(self._log_weights, expectations, strict=True))

    @cached_property
    def deviation(self) -> Tensor:
        """Standard deviation of Y_t [B, T, D], in units of the data. The likelihood must be Gaussian."""
        likelihood = self.likelihood
        assert isinstance(likelihood, RealValued), "the likelihood is not Gaussian"

        def share(parameters: Tensor, log_weight: Tensor) -> Tensor:
            mean, log_std = likelihood.frame(parameters)
            return log_weight.exp()[..., None] * ((2 * log_std).exp() + (mean - self.mean).square())

        return _sum(share(*component) for component in self.components()).sqrt()

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log P(y) [B, T], nats, of frames y [B, T, D]."""
        total = None
        for parameters, log_weight in self.components():
            one = self.likelihood.log_prob(parameters, y) + log_weight
            total = one if total is None else torch.logaddexp(total, one)
        assert total is not None, "a predictive needs at least one draw"
        return total

    def gaussians(self) -> "GaussianMixture":
        """Return all S components together. The likelihood must be Gaussian."""
        assert isinstance(self.likelihood, RealValued), "the likelihood is not Gaussian"
        frames, weights = [], []
        for parameters, log_weight in self.components():
            frames.append(self.likelihood.frame(parameters))
            weights.append(log_weight.exp().expand(parameters.shape[:-1]))
        means, log_stds = zip(*frames, strict=True)
        return GaussianMixture(torch.stack(weights), torch.stack(means), torch.stack(log_stds).exp())


class GaussianMixture(NamedTuple):
    """A mixture of S Gaussians for each channel of each frame, in the units of the data."""

    weights: Tensor
    """[S, ...], sum to 1 over S."""
    means: Tensor
    """[S, ..., D]"""
    stds: Tensor
    """[S, ..., D]"""

    def cdf(self, y: Tensor) -> Tensor:
        """Return P(Y <= y) [..., D], channel by channel."""
        return (self.weights[..., None] * torch.special.ndtr((y - self.means) / self.stds)).sum(0)

    def quantile(self, level: float) -> Tensor:
        """Return the values [..., D] below which Y lies with probability `level`, channel by channel.

        By bisection between the components' own quantiles, which enclose it, to 2^-33 of their range.
        """
        own = self.means + self.stds * torch.special.ndtri(self.means.new_tensor(level))
        low, high = own.amin(0).double(), own.amax(0).double()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.cdf(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(self.means)

    def crps(self, y: Tensor) -> Tensor:
        """Return the continuous ranked probability score E|Y - y| - E|Y - Y'| / 2 of each channel [..., D], in units
        of the data, in closed form (Grimit et al., 2006)."""
        S, D = len(self.means), self.means.shape[-1]
        rows = [self.weights.reshape(S, -1), self.means.reshape(S, -1, D), self.stds.reshape(S, -1, D)]
        at_once = max(1, _VALUES_AT_ONCE // (S * D))
        parts = zip(y.reshape(-1, D).split(at_once), *(x.split(at_once, 1) for x in rows), strict=True)
        return torch.cat([_crps(y, weights[..., None], *rest) for y, weights, *rest in parts]).reshape(y.shape)


def _crps(y: Tensor, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return the CRPS [N, D] for y [N, D], weights [S, N, 1], means and stds [S, N, D]."""
    score = (weights * _mean_distance(y - means, stds)).sum(0)
    score -= 0.5 * (weights.square() * _mean_distance(torch.zeros_like(means), math.sqrt(2) * stds)).sum(0)
    for lag in range(1, len(means)):  # each pair of two components once
        stds_of_pairs = torch.hypot(stds[lag:], stds[:-lag])
        distance = _mean_distance(means[lag:] - means[:-lag], stds_of_pairs)
        score -= (weights[lag:] * weights[:-lag] * distance).sum(0)
    return score


def _mean_distance(mean: Tensor, std: Tensor) -> Tensor:
    """Return E|Z| for Z ~ N(mean, std^2)."""
    z = mean / std
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return std * (2 * density + z * torch.erf(z / math.sqrt(2)))


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    total = next(tensors)
    for tensor in tensors:
        total = total + tensor
    return total
