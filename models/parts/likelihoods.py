"""Observation models P(Y | parameters), expressed relative to the training data's own marginal.

A decoder starts at the parameters of the training split's marginal, so that no step of training is spent on finding out
how loud or how sparse the data are; the same statistics bring inputs to unit scale.
"""

from typing import Annotated, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.parts.networks import UNIT_STD, Normal, full_precision

LikelihoodName = Literal["bernoulli", "gaussian"]
Noise = Literal["channel", "frame"] | Annotated[float, Field(gt=0)]


class Marginal(NamedTuple):
    """First and second moment of the training split, and its size."""

    mean: Tensor
    """[D] a channel's mean."""
    scale: float
    """Root mean variance over channels, > 0: one number, so that rare channels are not blown up."""
    sequences: int = 1
    """N: among so many is the KL of what all sequences share divided."""


class Standardize(nn.Module):
    """y -> (y - mean) / scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = len(marginal.mean)
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", torch.tensor(marginal.scale))

    def forward(self, y: Tensor) -> Tensor:
        return (y - self.mean) / self.scale


class Density(Protocol):
    """P(Y | parameters) of a frame."""

    width: int
    """Parameters of a frame."""

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        """[...], nats, summed over channels. `parameters` [..., width], `y` [..., D]."""
        ...

    def expectation(self, parameters: Tensor) -> Tensor:
        """E[Y] [..., D]."""
        ...


class Likelihood(Density, Protocol):
    """And what the VSDN family trains on beside it."""

    def of_marginal(self) -> Tensor:
        """Parameters [width] that stand for the marginal, which a decoder starts from."""
        ...

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float) -> Tensor:
        """The same, for training alone: each channel weighted by its predicted standard deviation, in units of the
        marginal's scale, to 2 `beta` (`Normal.beta_log_prob`); where there is none, not weighted."""
        ...


class Bernoulli(nn.Module):
    """Parameters are logits, added to those of the marginal."""

    marginal: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = len(marginal.mean)
        # A channel that never sounds in training is unlikely, not impossible.
        self.register_buffer("marginal", torch.logit(marginal.mean, eps=1e-4))

    def of_marginal(self) -> Tensor:
        return torch.zeros(self.width)

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        logits = full_precision(parameters) + self.marginal
        return -F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(-1)

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float) -> Tensor:
        return self.log_prob(parameters, y)

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

    def of_marginal(self) -> Tensor:
        D = len(self.mean)
        return torch.cat([torch.zeros(self.width - D), torch.full((D,), UNIT_STD)])

    def normal(self, parameters: Tensor) -> Normal:
        """Of a frame, in units of the marginal's scale."""
        return Normal.of(parameters)

    def frame(self, parameters: Tensor) -> Normal:
        """Return the distribution of a frame [..., D], in the units of the data."""
        standard = self.normal(parameters)
        return Normal(self.mean + self.scale * standard.mean, self.scale.log() + standard.log_std)

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        standard = self.normal(parameters).log_prob((y - self.mean) / self.scale)
        return standard - y.shape[-1] * self.scale.log()  # change of variables

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float) -> Tensor:
        return self.normal(parameters).beta_log_prob((y - self.mean) / self.scale, beta)

    def expectation(self, parameters: Tensor) -> Tensor:
        return self.mean + self.scale * self.normal(parameters).mean


class NoisyMean(nn.Module):
    """A Gaussian whose parameters are a mean, in units of the marginal's scale, and whose noise is the same for all
    channels of a frame or all frames of a channel.

    Args:
        noise: "channel": a standard deviation learned for each channel; "frame": one variance in [1, e] in squared
            units of the data, from the decoder, as published for ODE2VAE; a number: the standard deviation, in units
            of the data.
    """

    mean: Tensor
    scale: Tensor
    log_std: Tensor

    def __init__(self, marginal: Marginal, noise: Noise) -> None:
        super().__init__()
        self.dim, self.by_frame = len(marginal.mean), noise == "frame"
        self.width = self.dim + self.by_frame
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", torch.tensor(marginal.scale))
        if noise == "channel":
            self.log_std = nn.Parameter(torch.full((self.dim,), marginal.scale).log())
        elif not isinstance(noise, str):
            self.register_buffer("log_std", torch.tensor(noise).log())

    def log_prob(self, parameters: Tensor, y: Tensor) -> Tensor:
        return self.frame(parameters).log_prob(y)

    def frame(self, parameters: Tensor) -> Normal:
        """Return the distribution of a frame [..., D], in the units of the data."""
        parameters = full_precision(parameters)
        log_std = torch.sigmoid(parameters[..., self.dim :]) / 2 if self.by_frame else self.log_std
        mean = self.expectation(parameters)
        return Normal(mean, log_std.expand_as(mean))

    def expectation(self, parameters: Tensor) -> Tensor:
        return self.mean + self.scale * full_precision(parameters)[..., : self.dim]


LIKELIHOODS: dict[LikelihoodName, type[Bernoulli] | type[Gaussian]] = {"bernoulli": Bernoulli, "gaussian": Gaussian}
