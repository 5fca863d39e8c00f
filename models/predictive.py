"""The predictive distribution of each frame: a mixture of the likelihood over draws of the latent."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from models.parts.likelihoods import Density, WithFrame, only
from models.parts.mixtures import Mixture, mean, mixture, variance


class Predictive:
    """P(Y_t | observations) = sum_s w_s P(Y_t | parameters_s), a mixture over S weighted draws of the latent.

    A draw is decoded whenever it is needed and not kept, so that a mean of many draws takes the memory of one. Evaluate
    the mixture under the same `torch.no_grad` or `torch.inference_mode` as the model that made it.
    """

    def __init__(
        self,
        likelihood: Density,
        parameters: Callable[[Any], Tensor],
        draws: int,
        log_weights: Tensor | None = None,
    ) -> None:
        """Construct the mixture.

        Args:
            likelihood: distribution of a frame given its parameters.
            parameters: function from the number of a draw to the likelihood's parameters [B, T, width]. Where draws
                have weights it also takes the numbers [B] of a draw for each row, see `component`.
            draws: S.
            log_weights: [S, B, T], whose exponentials sum to 1 over S; None gives all draws the same weight.
        """
        self.likelihood, self.draws = likelihood, draws
        self._parameters, self._log_weights = parameters, log_weights

    def __getitem__(self, frames: Any) -> "Predictive":
        """Return the predictive distribution of some frames; `frames` is an index into a tensor of shape [B, T]."""
        index = frames if isinstance(frames, tuple) else (frames,)
        weights = None if self._log_weights is None else self._log_weights[(slice(None), *index)]
        return Predictive(self.likelihood, lambda s: self._parameters(s)[frames], self.draws, weights)

    def components(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each draw's parameters [B, T, width] and log weight, [B, T] or a scalar."""
        for s in range(self.draws):
            parameters = self._parameters(s)
            equal = parameters.new_full((), -math.log(self.draws))
            yield parameters, equal if self._log_weights is None else self._log_weights[s]

    def component(self, frame: int, uniform: Tensor) -> Tensor:
        """Return the parameters [B, width] of a frame under the only draw or, where draws have weights, under one that
        is picked in each row by the weights at the frame.

        Args:
            uniform: [B], in (0, 1).
        """
        if self._log_weights is None:
            assert self.draws == 1, "without weights, none of several draws can be picked"
            return self._parameters(0)[:, frame]
        total = self._log_weights[:, :, frame].T.double().exp().cumsum(1)
        points = uniform.double()[:, None].contiguous()
        picked = torch.searchsorted(total / total[:, -1:], points)[:, 0].clamp_max(self.draws - 1)
        return self._parameters(picked)[:, frame]

    @cached_property
    def mean(self) -> Tensor:
        """Expectation E[Y_t] [B, T, D]; for binary frames, the probability of a 1."""
        expectations = (self.likelihood.expectation(parameters) for parameters, _ in self.components())
        if self._log_weights is None:
            return _sum(expectations) / self.draws
        return _sum(w.exp()[..., None] * x for w, x in zip(self._log_weights, expectations, strict=True))

    @cached_property
    def deviation(self) -> Tensor:
        """Standard deviation of Y_t [B, T, D], in units of the data. The likelihood must have the method `frame`."""
        likelihood = self.likelihood
        assert isinstance(likelihood, WithFrame), "the likelihood has no method frame"

        def share(parameters: Tensor, log_weight: Tensor) -> Tensor:
            frame = likelihood.frame(parameters)
            return log_weight.exp()[..., None] * (variance(frame) + (mean(frame) - self.mean).square())

        return _sum(share(*component) for component in self.components()).sqrt()

    def log_prob(self, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log P(y) [B, T], in nats, of frames y [B, T, D], or only of their entries that are `observed`
        [B, T, D], if given."""
        total = None
        for parameters, log_weight in self.components():
            one = self.likelihood.log_prob(parameters, y, *only(observed)) + log_weight
            total = one if total is None else torch.logaddexp(total, one)
        assert total is not None, "Predictive needs at least one draw"
        return total

    def mixture(self) -> Mixture:
        """Return the mixture of all S components, channel by channel. The likelihood must have the method `frame`."""
        assert isinstance(self.likelihood, WithFrame), "the likelihood has no method frame"
        frames, weights = [], []
        for parameters, log_weight in self.components():
            frames.append(self.likelihood.frame(parameters))
            weights.append(log_weight.exp().expand(parameters.shape[:-1]))
        return mixture(torch.stack(weights), frames)


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    total = next(tensors)
    for tensor in tensors:
        total = total + tensor
    return total
