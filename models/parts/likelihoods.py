"""Observation models P(Y | parameters), expressed relative to the training data's own marginal.

A decoder starts at the parameters of the training split's marginal, so that no training step is spent on learning the
loudness or sparsity of the data. The same statistics bring inputs to unit scale.
"""

from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.parts.mixtures import Binary, Frame
from models.parts.networks import UNIT_STD, Normal, full_precision

LikelihoodName = Literal["bernoulli", "gaussian"]
Noise = Literal["channel", "frame"] | Annotated[float, Field(gt=0)]


class TableForm(NamedTuple):
    """Properties of a table, whose channels are observed separately, that determine the form of a model."""

    channels: tuple[str, ...]
    """Name of each of the D channels."""
    binary: tuple[bool, ...]
    """Whether all values of a channel are 0 or 1, for each of the D channels."""
    static: int
    """Number S of static covariates of a sequence."""


class Marginal(NamedTuple):
    """First and second moments of the training split, its size, and its form if it is a table."""

    mean: Tensor
    """[D] mean of each channel."""
    scale: float | Tensor
    """Root of the mean variance over channels, > 0: one number, so that rare channels are not amplified. For a table,
    [D] the standard deviation of each channel, since units may differ."""
    sequences: int = 1
    """Number N of training sequences, by which the KL of shared weights is divided."""
    table: TableForm | None = None
    """Form of a table, whose masks are of entries; None if masks are of whole frames."""

    def of(self, channels: Tensor) -> "Marginal":
        """Return the moments of the channels with these indices."""
        scale = self.scale[channels] if isinstance(self.scale, Tensor) else self.scale
        return Marginal(self.mean[channels], scale, self.sequences)


class Standardize(nn.Module):
    """The map y -> (y - mean) / scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = len(marginal.mean)
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", _tensor(marginal.scale))

    def forward(self, y: Tensor) -> Tensor:
        return (y - self.mean) / self.scale


class Density(Protocol):
    """A distribution P(Y | parameters) of a frame."""

    width: int
    """Number of parameters per frame."""

    def log_prob(self, parameters: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log P(y) [...], in nats, summed over channels, for `parameters` [..., width] and `y` [..., D].

        If `observed`, bool [..., D], is given, only these channels are summed. It is given only for tables, and the
        other channels must have no influence at all on result and gradients."""
        ...

    def expectation(self, parameters: Tensor) -> Tensor:
        """Return E[Y] [..., D]."""
        ...


@runtime_checkable
class WithFrame(Density, Protocol):
    """A density with the distribution of each channel, so that standard deviations, intervals and CRPS of its mixtures
    have closed forms."""

    def frame(self, parameters: Tensor) -> Frame:
        """Return the distribution of a frame [..., D], in the units of the data."""
        ...


class Likelihood(Density, Protocol):
    """A density with the methods that the VSDN family also needs in training."""

    def of_marginal(self) -> Tensor:
        """Return the parameters [width] of the marginal, from which a decoder starts."""
        ...

    def locations(self) -> list[int]:
        """Return for each channel the index of the parameter that is added to its mean, in units of the marginal's
        scale; -1 for a channel without one. A config with `from_neighbours` needs it."""
        ...

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float, observed: Tensor | None = None) -> Tensor:
        """Return the weighted `log_prob` [...] for training.

        Each channel is weighted by its predicted standard deviation, in units of the marginal's scale, to the power
        2 `beta` (`Normal.beta_log_probs`). Without a standard deviation the weight is 1."""
        ...


class Bernoulli(nn.Module):
    """Independent binary channels. The parameters are logits, added to those of the marginal."""

    marginal: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = len(marginal.mean)
        # A channel that never sounds in training is unlikely, not impossible.
        self.register_buffer("marginal", torch.logit(marginal.mean, eps=1e-4))

    def of_marginal(self) -> Tensor:
        return torch.zeros(self.width)

    def locations(self) -> list[int]:
        return [-1] * self.width

    def log_prob(self, parameters: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        logits = full_precision(parameters) + self.marginal
        return -summed(F.binary_cross_entropy_with_logits(logits, y, reduction="none"), observed)

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float, observed: Tensor | None = None) -> Tensor:
        return self.log_prob(parameters, y, observed)

    def expectation(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(full_precision(parameters) + self.marginal)

    def frame(self, parameters: Tensor) -> Binary:
        return Binary(self.expectation(parameters))


class LocationScale(nn.Module):
    """Independent channels with a mean and a standard deviation. The parameters are each channel's mean and log
    standard deviation, in units of the marginal's scale."""

    mean: Tensor
    scale: Tensor

    def __init__(self, marginal: Marginal) -> None:
        super().__init__()
        self.width = 2 * len(marginal.mean)
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", _tensor(marginal.scale))

    def of_marginal(self) -> Tensor:
        D = len(self.mean)
        return torch.cat([torch.zeros(self.width - D), torch.full((D,), UNIT_STD)])

    def locations(self) -> list[int]:
        return list(range(len(self.mean)))

    def normal(self, parameters: Tensor) -> Normal:
        """Return mean and log standard deviation of a frame, in units of the marginal's scale."""
        return Normal.of(parameters)

    def moments(self, parameters: Tensor) -> Normal:
        """Return mean and log standard deviation of a frame [..., D], in the units of the data."""
        standard = self.normal(parameters)
        return Normal(self.mean + self.scale * standard.mean, self.scale.log() + standard.log_std)

    def standard(self, y: Tensor) -> Tensor:
        """Return y in units of the marginal's scale."""
        return (y - self.mean) / self.scale

    def expectation(self, parameters: Tensor) -> Tensor:
        return self.mean + self.scale * self.normal(parameters).mean


class Gaussian(LocationScale):
    """Independent Gaussian channels."""

    def frame(self, parameters: Tensor) -> Normal:
        """Return the distribution of a frame [..., D], in the units of the data."""
        return self.moments(parameters)

    def log_prob(self, parameters: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        standard = summed(self.normal(parameters).log_probs(self.standard(y)), observed)
        return standard - log_volume(self.scale, y, observed)  # change of variables

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float, observed: Tensor | None = None) -> Tensor:
        standard = summed(self.normal(parameters).beta_log_probs(self.standard(y), beta), observed)
        return standard - log_volume(self.scale, y, observed)


class NoisyMean(nn.Module):
    """A Gaussian whose parameters are a mean, in units of the marginal's scale. Its noise is the same for all channels
    of a frame, or for all frames of a channel.

    Args:
        marginal: moments of the training split.
        noise: one of
            "channel": a standard deviation learned for each channel;
            "frame": one variance per frame in [1, e], in squared units of the data, from the decoder, as published for
            ODE2VAE;
            a number: the standard deviation, in units of the data.
    """

    mean: Tensor
    scale: Tensor
    log_std: Tensor

    def __init__(self, marginal: Marginal, noise: Noise) -> None:
        super().__init__()
        self.dim, self.by_frame = len(marginal.mean), noise == "frame"
        self.width = self.dim + self.by_frame
        self.register_buffer("mean", marginal.mean.clone())
        self.register_buffer("scale", _tensor(marginal.scale))
        if noise == "channel":
            self.log_std = nn.Parameter((torch.ones(self.dim) * marginal.scale).log())
        elif not isinstance(noise, str):
            self.register_buffer("log_std", torch.tensor(noise).log())

    def log_prob(self, parameters: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        return summed(self.frame(parameters).log_probs(y), observed)

    def frame(self, parameters: Tensor) -> Normal:
        """Return the distribution of a frame [..., D], in the units of the data."""
        parameters = full_precision(parameters)
        log_std = torch.sigmoid(parameters[..., self.dim :]) / 2 if self.by_frame else self.log_std
        mean = self.expectation(parameters)
        return Normal(mean, log_std.expand_as(mean))

    def expectation(self, parameters: Tensor) -> Tensor:
        return self.mean + self.scale * full_precision(parameters)[..., : self.dim]


def only(observed: Tensor | None) -> tuple[Tensor, ...]:
    """Return the additional arguments of `log_prob`: `observed` for masks of entries, and none for whole frames.

    So a likelihood without the argument `observed` works for whole frames."""
    return () if observed is None else (observed,)


def summed(channels: Tensor, observed: Tensor | None) -> Tensor:
    """Sum [..., D] over the `observed` channels, or over all if it is None."""
    return (channels if observed is None else torch.where(observed, channels, 0.0)).sum(-1)


def log_volume(scale: Tensor, y: Tensor, observed: Tensor | None) -> Tensor:
    """Return the log Jacobian of y / scale, summed over the `observed` channels, or over all if it is None.

    Args:
        scale: [D], or one number for all channels.
    """
    logs = scale.log()
    if observed is not None:
        return (logs * observed).sum(-1)
    return y.shape[-1] * logs if logs.ndim == 0 else logs.sum()


def _tensor(scale: float | Tensor) -> Tensor:
    return scale.clone() if isinstance(scale, Tensor) else torch.tensor(scale)
