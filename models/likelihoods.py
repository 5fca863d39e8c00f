"""Observation models P(Y | parameters), expressed relative to the training data's own marginal.

A decoder that outputs 0 stands for the marginal of the training split, so that no step of training is spent on finding
out how loud or how sparse the data are; the same statistics bring inputs to unit scale.
"""

from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks import Normal, full_precision

LikelihoodName = Literal["bernoulli", "gaussian"]


class Marginal(NamedTuple):
    """First and second moment of the training split."""

    mean: Tensor
    """[D] a channel's mean."""
    scale: float
    """Root mean variance over channels, > 0: one number, so that rare channels are not blown up."""


class Standardize(nn.Module):
    """y -> (y - mean) / scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", torch.tensor(marginal.scale))

    def forward(self, y: Tensor) -> Tensor:
        return (y - self.mean) / self.scale


class Likelihood(Protocol):
    width: int
    """Parameters of a frame."""

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        """[...], nats, summed over channels. `parameters` [..., width], `y` [..., D]."""
        ...

    def expectation(self, parameters: Tensor) -> Tensor:
        """E[Y] [..., D]."""
        ...


class Bernoulli(nn.Module):
    """Parameters are logits, added to those of the marginal."""

    marginal: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = len(marginal.mean)
        # A channel that never sounds in training is unlikely, not impossible.
        self.register_buffer("marginal", torch.logit(marginal.mean, eps=1e-4))

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        logits = full_precision(parameters) + self.marginal
        return -F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(-1)

    def expectation(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(full_precision(parameters) + self.marginal)


class Gaussian(nn.Module):
    """Parameters are a mean and a log standard deviation a channel, in units of the marginal's scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = 2 * len(marginal.mean)
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", torch.tensor(marginal.scale))

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        standard = Normal.of(parameters).log_prob((y - self.mean) / self.scale)
        return standard - y.shape[-1] * self.scale.log()  # change of variables

    def expectation(self, parameters: Tensor) -> Tensor:
        return self.mean + self.scale * Normal.of(parameters).mean


LIKELIHOODS: dict[LikelihoodName, type[Bernoulli] | type[Gaussian]] = {"bernoulli": Bernoulli, "gaussian": Gaussian}
