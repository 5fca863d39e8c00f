"""q(W): a diagonal Gaussian over the weights of the differential function f (ODE2VAE, Yildiz et al., 2019)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from models.parts.networks import Normal
from models.parts.noise import keyed_normal
from models.solvers.flow import Weights

Variance = Literal["per_weight", "shared", "none"]
"""Form of q(W): a variance per weight, one for all weights (as published for motion capture), or a point estimate."""


class BayesianMlp(nn.Module):
    """q(W) = N(mean, std^2) for an MLP with two hidden layers, and its prior N(0, prior_std^2).

    Every sequence of a batch gets its own draw of a network, from its own seed. So a result depends neither on batch
    nor on rank, and the gradients of a batch average over as many draws as it has sequences.

    Args:
        inputs, width, outputs: numbers of units of f. variance: see `Variance`.
        init_std: standard deviation of q(W) before training. prior_std: standard deviation of p(W).
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, variance: Variance, init_std: float, prior_std: float
    ) -> None:
        super().__init__()
        self.shapes = [(width, inputs), (1, width), (width, width), (1, width), (outputs, width), (1, outputs)]
        self.sizes = [rows * columns for rows, columns in self.shapes]
        self.count = sum(self.sizes)
        """Number of weights of f, biases included."""
        self.prior_std = prior_std
        layers = [torch.zeros(shape) for shape in self.shapes]
        for weight in layers[::2]:
            nn.init.xavier_uniform_(weight)
        self.mean = nn.Parameter(torch.cat([layer.flatten() for layer in layers]))
        entries = {"per_weight": self.count, "shared": 1, "none": 0}[variance]
        log_std = torch.full((entries,), init_std).log()
        self.log_std = nn.Parameter(log_std) if entries else None

    def draw(self, seed: Tensor, stream: int | Tensor) -> Weights:
        """Draw a network per seed, [G] int64 (see `keyed_normal`). A point estimate has one for all seeds, G = 1."""
        if self.log_std is None:
            return self.mean_weights()
        noise = keyed_normal(seed, 1, self.count, stream)[:, 0]
        return self._split(self.mean + self.log_std.exp() * noise.to(self.mean))

    def mean_weights(self) -> Weights:
        """Return the network with the mean weights, G = 1."""
        return self._split(self.mean[None])

    def kl(self) -> Tensor:
        """Return KL(q(W) || p(W)), a scalar in nats; 0 for a point estimate."""
        if self.log_std is None:
            return self.mean.new_zeros(())
        return Normal(self.mean / self.prior_std, self.log_std - math.log(self.prior_std)).standard_kl()

    def _split(self, flat: Tensor) -> Weights:
        layers = zip(flat.split(self.sizes, 1), self.shapes, strict=True)
        return Weights(*(x.unflatten(1, shape) for x, shape in layers))
