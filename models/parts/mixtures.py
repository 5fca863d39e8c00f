"""Distributions of the channels of a frame, and mixtures of S such distributions over draws of a latent.

Moments, distribution functions and CRPS of the mixtures have closed forms. With u = z / gamma, where gamma is
sqrt(3) times the scale, Student's t with three degrees of freedom has

    F(z) = 1/2 + (u / (1 + u^2) + arctan u) / pi,
    E|m + a T - b T'| = 2 / pi (m arctan(m / g) + g - alpha beta g / (g^2 + m^2)),  g = alpha + beta,

with alpha = sqrt(3) a and beta = sqrt(3) b. The second follows from the characteristic function
(1 + alpha |t|) (1 + beta |t|) exp(-g |t|) of a T - b T': its density is half the second derivative of E|m + ...| in m.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.parts.networks import Normal

_VALUES_AT_ONCE = 2**20
"""Maximum of components times channels whose pairwise distances are computed together; each takes a few numbers."""

_HALVINGS = 32


class Student(NamedTuple):
    """Student's t, shifted and scaled, with three degrees of freedom, the smallest number with a finite variance."""

    mean: Tensor
    log_scale: Tensor
    """Logarithm of the scale, which is the standard deviation divided by sqrt(3)."""

    @classmethod
    def of(cls, moments: Normal) -> "Student":
        """Return the distribution with this mean and log standard deviation."""
        return cls(moments.mean, moments.log_std - math.log(3.0) / 2)

    def log_probs(self, x: Tensor) -> Tensor:
        """Return the log density of each component, in nats."""
        u = (x - self.mean) * (-self.log_scale).exp()
        return -2.0 * (u.square() / 3.0).log1p() - self.log_scale - math.log(math.pi * math.sqrt(3.0) / 2.0)


class Binary(NamedTuple):
    """Channels that are 0 or 1."""

    mean: Tensor
    """Probability of a 1."""


class ByChannel(NamedTuple):
    """Channels of several kinds of distribution."""

    channels: tuple[Tensor, ...]
    """Indices of the channels of each part. Each channel is in exactly one part."""
    parts: tuple["Frame", ...]


Frame = Normal | Student | Binary | ByChannel
"""Distribution of a frame [..., D], whose channels are independent."""


def mean(frame: Frame) -> Tensor:
    """Return the mean of each channel [..., D]."""
    return joined(frame.channels, [mean(part) for part in frame.parts]) if isinstance(frame, ByChannel) else frame.mean


def variance(frame: Frame) -> Tensor:
    """Return the variance of each channel [..., D]."""
    match frame:
        case Normal():
            return (2 * frame.log_std).exp()
        case Student():
            return 3 * (2 * frame.log_scale).exp()
        case Binary():
            return frame.mean * (1 - frame.mean)
        case ByChannel():
            return joined(frame.channels, [variance(part) for part in frame.parts])


class Mixture(Protocol):
    """A mixture for each channel of each frame, in the units of the data."""

    def cdf(self, y: Tensor) -> Tensor:
        """Return P(Y <= y) [..., D], channel by channel."""
        ...

    def quantile(self, level: float) -> Tensor:
        """Return the quantiles [..., D] of Y at probability `level`, channel by channel."""
        ...

    def crps(self, y: Tensor) -> Tensor:
        """Return the continuous ranked probability score E|Y - y| - E|Y - Y'| / 2 of each channel [..., D], in units
        of the data, in closed form."""
        ...


def mixture(weights: Tensor, frames: Sequence[Frame]) -> Mixture:
    """Return the mixture of S frames of one kind with `weights` [S, ...], which sum to 1 over S."""
    first = frames[0]
    if isinstance(first, ByChannel):
        of_part = zip(*(frame.parts for frame in frames if isinstance(frame, ByChannel)), strict=True)
        return MixtureByChannel(first.channels, tuple(mixture(weights, parts) for parts in of_part))
    means, *scales = (torch.stack(field) for field in zip(*frames, strict=True))
    match first:
        case Normal():
            return GaussianMixture(weights, means, scales[0].exp())
        case Student():
            return StudentMixture(weights, means, scales[0].exp())
        case Binary():
            return BinaryMixture((weights[..., None] * means).sum(0))


class _Scaled(NamedTuple):
    weights: Tensor
    """[S, ...] weights, which sum to 1 over S."""
    means: Tensor
    """[S, ..., D] mean of each component."""
    stds: Tensor
    """[S, ..., D] scale of each component: the standard deviation of a Gaussian."""


class _ScaledMixture(_Scaled):
    """A mixture of shifted and scaled copies of one symmetric distribution."""

    __slots__ = ()

    @staticmethod
    def _cdf(z: Tensor) -> Tensor:
        """Return the distribution function at scale 1."""
        raise NotImplementedError

    @staticmethod
    def _quantile(level: Tensor) -> Tensor:
        """Return the quantile at scale 1."""
        raise NotImplementedError

    @staticmethod
    def _distance(mean: Tensor, one: Tensor, other: Tensor | None = None) -> Tensor:
        """Return E|mean + one T - other T'| for independent T and T' of scale 1."""
        raise NotImplementedError

    @staticmethod
    def _own_distance(std: Tensor) -> Tensor:
        """Return E|std (T - T')| for independent T and T' of scale 1."""
        raise NotImplementedError

    def cdf(self, y: Tensor) -> Tensor:
        return (self.weights[..., None] * self._cdf((y - self.means) / self.stds)).sum(0)

    def quantile(self, level: float) -> Tensor:
        """Return the quantiles, by bisection between the smallest and largest quantile of a component, to 2^-33 of
        this range."""
        own = self.means + self.stds * self._quantile(self.means.new_tensor(level))
        low, high = own.amin(0).double(), own.amax(0).double()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.cdf(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(self.means)

    def crps(self, y: Tensor) -> Tensor:
        S, D = len(self.means), self.means.shape[-1]
        rows = [self.weights.reshape(S, -1), self.means.reshape(S, -1, D), self.stds.reshape(S, -1, D)]
        at_once = max(1, _VALUES_AT_ONCE // (S * D))
        parts = zip(y.reshape(-1, D).split(at_once), *(x.split(at_once, 1) for x in rows), strict=True)
        return torch.cat([self._crps(y, weights[..., None], *rest) for y, weights, *rest in parts]).reshape(y.shape)

    def _crps(self, y: Tensor, weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
        """Return the CRPS [N, D] for y [N, D], weights [S, N, 1], means and stds [S, N, D]."""
        score = (weights * self._distance(y - means, stds)).sum(0)
        score -= 0.5 * (weights.square() * self._own_distance(stds)).sum(0)
        for lag in range(1, len(means)):  # each pair of two components once
            distance = self._distance(means[lag:] - means[:-lag], stds[lag:], stds[:-lag])
            score -= (weights[lag:] * weights[:-lag] * distance).sum(0)
        return score


class GaussianMixture(_ScaledMixture):
    """A mixture of S Gaussians, whose CRPS is that of Grimit et al. (2006)."""

    __slots__ = ()

    @staticmethod
    def _cdf(z: Tensor) -> Tensor:
        return torch.special.ndtr(z)

    @staticmethod
    def _quantile(level: Tensor) -> Tensor:
        return torch.special.ndtri(level)

    @staticmethod
    def _distance(mean: Tensor, one: Tensor, other: Tensor | None = None) -> Tensor:
        std = one if other is None else torch.hypot(one, other)
        z = mean / std
        density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
        return std * (2 * density + z * torch.erf(z / math.sqrt(2)))

    @staticmethod
    def _own_distance(std: Tensor) -> Tensor:
        return GaussianMixture._distance(torch.zeros_like(std), math.sqrt(2) * std)


class StudentMixture(_ScaledMixture):
    """A mixture of S distributions of Student's t with three degrees of freedom."""

    __slots__ = ()

    @staticmethod
    def _cdf(z: Tensor) -> Tensor:
        u = z / math.sqrt(3)
        return 0.5 + (u / (1 + u.square()) + u.atan()) / math.pi

    @staticmethod
    def _quantile(level: Tensor) -> Tensor:
        wanted = level.double()
        low, high = torch.full_like(wanted, -1e6), torch.full_like(wanted, 1e6)
        for _ in range(2 * _HALVINGS):
            middle = (low + high) / 2
            below = StudentMixture._cdf(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(level)

    @staticmethod
    def _distance(mean: Tensor, one: Tensor, other: Tensor | None = None) -> Tensor:
        alpha, beta = math.sqrt(3) * one, math.sqrt(3) * (torch.zeros_like(one) if other is None else other)
        g = alpha + beta
        return (mean * (mean / g).atan() + g - alpha * beta * g / (g.square() + mean.square())) * (2 / math.pi)

    @staticmethod
    def _own_distance(std: Tensor) -> Tensor:
        return 3 * math.sqrt(3) / math.pi * std


class BinaryMixture(NamedTuple):
    """A mixture for channels of 0 and 1, which is again a Bernoulli distribution."""

    mean: Tensor
    """[..., D] probability of a 1."""

    def cdf(self, y: Tensor) -> Tensor:
        return torch.where(y >= 1, 1.0, torch.where(y >= 0, 1 - self.mean, 0.0))

    def quantile(self, level: float) -> Tensor:
        return (level > 1 - self.mean).to(self.mean)

    def crps(self, y: Tensor) -> Tensor:
        """Return the CRPS for y in [0, 1], which for 0 and 1 is the Brier score."""
        return (y - self.mean).square() + y * (1 - y)


class MixtureByChannel(NamedTuple):
    """Channels with mixtures of several kinds."""

    channels: tuple[Tensor, ...]
    """Indices of the channels of each part."""
    parts: tuple[Mixture, ...]

    def cdf(self, y: Tensor) -> Tensor:
        return joined(self.channels, [part.cdf(y[..., at]) for at, part in self._each()])

    def quantile(self, level: float) -> Tensor:
        return joined(self.channels, [part.quantile(level) for part in self.parts])

    def crps(self, y: Tensor) -> Tensor:
        return joined(self.channels, [part.crps(y[..., at]) for at, part in self._each()])

    def _each(self) -> Sequence[tuple[Tensor, Mixture]]:
        return list(zip(self.channels, self.parts, strict=True))


def joined(channels: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """Return one tensor [..., D] of parts [..., D_i] for the channels with these indices [D_i]."""
    return torch.cat(tuple(parts), -1)[..., torch.cat(tuple(channels)).argsort()]
