"""Feed-forward networks and diagonal Gaussians, the two things every model here is made of."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


def mlp(inputs: int, width: int, depth: int, outputs: int, activation: type[nn.Module] = nn.ELU) -> nn.Sequential:
    """`depth` hidden layers of `width` units and a linear output (VSDN, section 5: 4 x 1024 ELU)."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(inputs if i == 0 else width, width), activation()]
    layers.append(nn.Linear(width if depth else inputs, outputs))
    return nn.Sequential(*layers)


def full_precision(x: Tensor) -> Tensor:
    """Out of what autocast made of it: densities and KL are not for half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


UNIT_STD = 4.0 * math.atanh(0.5)
"""The output of a network that `Normal.of` takes for a standard deviation of 1."""


class Normal(NamedTuple):
    """A diagonal Gaussian over the last axis."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> "Normal":
        """Split a network's output [..., 2 Z]. The log standard deviation is held in [-6, 2], smoothly: a variance
        that runs to zero makes a bound meaningless, and one that explodes is never a posterior's wish."""
        mean, raw = full_precision(parameters).chunk(2, dim=-1)
        return cls(mean, 4.0 * torch.tanh(raw / 4.0) - 2.0)

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """[...], nats, summed over the last axis."""
        return self._log_probs(x).sum(-1)

    def beta_log_prob(self, x: Tensor, beta: float) -> Tensor:
        """The same with each component weighted by std^(2 beta), a constant to the gradient: -beta-NLL (Seitzer et al.,
        2022). At 0 it is the log-likelihood, which hardly moves a mean where it is unsure; at 1 the mean learns as from
        least squares."""
        weight = (2.0 * beta * self.log_std.detach()).exp()
        return (weight * self._log_probs(x)).sum(-1)

    def _log_probs(self, x: Tensor) -> Tensor:
        scaled = (x - self.mean) * (-self.log_std).exp()
        return -0.5 * scaled.square() - self.log_std - 0.9189385332046727  # log(2 pi) / 2

    def kl(self, other: "Normal") -> Tensor:
        """KL(self || other) [...], nats, summed over the last axis."""
        ratio = 2.0 * (self.log_std - other.log_std)
        distance = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return 0.5 * (ratio.exp() + distance - 1.0 - ratio).sum(-1)
