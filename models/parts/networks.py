"""Feed-forward networks and diagonal Gaussians, the two building blocks of every model."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


def mlp(inputs: int, width: int, depth: int, outputs: int, activation: type[nn.Module] = nn.ELU) -> nn.Sequential:
    """Build a network of `depth` hidden layers of `width` units and a linear output (VSDN, section 5: 4 x 1024 ELU)."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(inputs if i == 0 else width, width), activation()]
    layers.append(nn.Linear(width if depth else inputs, outputs))
    return nn.Sequential(*layers)


def small(layer: nn.Module) -> None:
    """Scale a layer's initial weights and biases by 0.01, so that its outputs start near 0 and still pass gradients."""
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.bias.mul_(0.01)


def full_precision(x: Tensor) -> Tensor:
    """Convert autocast's half precision to float32, which densities and KL need."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


UNIT_STD = 4.0 * math.atanh(0.5)
"""Network output that `Normal.of` maps to a standard deviation of 1."""


_HALF_LOG_TURN = 0.9189385332046727
"""log(2 pi) / 2."""


class Normal(NamedTuple):
    """A diagonal Gaussian over the last axis."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> "Normal":
        """Split a network's output [..., 2 Z] into mean and log standard deviation.

        The log standard deviation is limited to [-6, 2], smoothly: a variance near zero makes an ELBO meaningless, and
        no posterior needs a larger one."""
        mean, raw = full_precision(parameters).chunk(2, dim=-1)
        return cls(mean, 4.0 * torch.tanh(raw / 4.0) - 2.0)

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sample of this noise, and its log density [...], in nats."""
        return self.sample(noise), standard_log_prob(noise) - self.log_std.sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density [...], in nats, summed over the last axis."""
        return self.log_probs(x).sum(-1)

    def beta_log_probs(self, x: Tensor, beta: float) -> Tensor:
        """Return the log density of each component times std^(2 beta), without gradient through this weight.

        This is minus the beta-NLL of Seitzer et al. (2022). At beta = 0 it is the log density, whose gradient hardly
        moves a mean with a large standard deviation. At beta = 1 the mean is trained as by least squares."""
        weight = (2.0 * beta * self.log_std.detach()).exp()
        return weight * self.log_probs(x)

    def log_probs(self, x: Tensor) -> Tensor:
        """Return the log density of each component, in nats."""
        scaled = (x - self.mean) * (-self.log_std).exp()
        return -0.5 * scaled.square() - self.log_std - _HALF_LOG_TURN

    def kl(self, other: "Normal") -> Tensor:
        """Return KL(self || other) [...], in nats, summed over the last axis."""
        ratio = 2.0 * (self.log_std - other.log_std)
        distance = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return 0.5 * (ratio.exp() + distance - 1.0 - ratio).sum(-1)

    def standard_kl(self) -> Tensor:
        """Return KL(self || N(0, I)) [...], in nats, summed over the last axis."""
        ratio = 2.0 * self.log_std
        return 0.5 * (ratio.exp() + self.mean.square() - 1.0 - ratio).sum(-1)


def standard_log_prob(x: Tensor) -> Tensor:
    """Return the log density [...] of N(0, I) at x [..., Z], in nats."""
    return (-0.5 * x.square() - _HALF_LOG_TURN).sum(-1)
