"""Observation models of tables, whose channels are observed separately: Student's t, and one model per channel."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from driftwork.errors import DriftworkError
from models.parts.likelihoods import (
    Bernoulli,
    Density,
    Likelihood,
    LikelihoodName,
    LocationScale,
    Marginal,
    Noise,
    NoisyMean,
    WithFrame,
    log_volume,
    only,
    summed,
)
from models.parts.mixtures import ByChannel, Student, joined


class StudentT(LocationScale):
    """Independent channels of Student's t with three degrees of freedom, which gives outliers less weight than a
    Gaussian does."""

    def frame(self, parameters: Tensor) -> Student:
        """Return the distribution of a frame [..., D], in the units of the data."""
        return Student.of(self.moments(parameters))

    def log_prob(self, parameters: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        standard = summed(Student.of(self.normal(parameters)).log_probs(self.standard(y)), observed)
        return standard - log_volume(self.scale, y, observed)  # change of variables

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float, observed: Tensor | None = None) -> Tensor:
        normal = self.normal(parameters)
        weight = (2.0 * beta * normal.log_std.detach()).exp()
        standard = summed(weight * Student.of(normal).log_probs(self.standard(y)), observed)
        return standard - log_volume(self.scale, y, observed)


class LikelihoodByChannel(nn.Module):
    """Independent channels with several kinds of observation models. The parameters of the parts are concatenated.

    Args:
        channels: indices of the channels of each part. Each channel is in exactly one part.
        parts: likelihoods of the parts, each with the method `frame`. `of_marginal` and `beta_log_prob` work if all
            parts have them.
    """

    def __init__(self, channels: Sequence[Tensor], parts: Sequence[Density]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(cast(Sequence[nn.Module], parts))
        self.widths = [part.width for part in parts]
        self.width = sum(self.widths)
        for number, indices in enumerate(channels):
            self.register_buffer(f"channels_{number}", indices, persistent=False)

    @property
    def channels(self) -> tuple[Tensor, ...]:
        """Indices of the channels of each part."""
        return tuple(self.get_buffer(f"channels_{number}") for number in range(len(self.parts)))

    def of_marginal(self) -> Tensor:
        return torch.cat([part.of_marginal() for part in self._parts()])

    def locations(self) -> list[int]:
        found, begin = [-1] * sum(map(len, self.channels)), 0
        for channels, part, width in zip(self.channels, self._parts(), self.widths, strict=True):
            for channel, place in zip(channels.tolist(), part.locations(), strict=True):
                found[channel] = begin + place if place >= 0 else -1
            begin += width
        return found

    def log_prob(self, parameters: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        return self._sum(parameters, y, observed, lambda part, *arguments: part.log_prob(*arguments))

    def beta_log_prob(self, parameters: Tensor, y: Tensor, beta: float, observed: Tensor | None = None) -> Tensor:
        return self._sum(parameters, y, observed, lambda part, p, y, *mask: part.beta_log_prob(p, y, beta, *mask))

    def expectation(self, parameters: Tensor) -> Tensor:
        return joined(self.channels, [part.expectation(p) for part, p in self._each(parameters)])

    def frame(self, parameters: Tensor) -> ByChannel:
        """Return the distribution of a frame [..., D], in the units of the data."""
        parts = [cast(WithFrame, part).frame(p) for part, p in self._each(parameters)]
        return ByChannel(self.channels, tuple(parts))

    def _parts(self) -> list[Likelihood]:
        return cast(list[Likelihood], list(self.parts))

    def _each(self, parameters: Tensor) -> list[tuple[Likelihood, Tensor]]:
        return list(zip(self._parts(), parameters.split(self.widths, -1), strict=True))

    def _sum(self, parameters: Tensor, y: Tensor, observed: Tensor | None, score: Callable[..., Tensor]) -> Tensor:
        """Sum the scores of all parts."""
        scores = [
            score(part, p, y[..., at], *only(None if observed is None else observed[..., at]))
            for at, (part, p) in zip(self.channels, self._each(parameters), strict=True)
        ]
        return torch.stack(scores).sum(0)


def with_noise(data: LikelihoodName, marginal: Marginal, noise: Noise) -> WithFrame:
    """Return the likelihood whose parameters are a mean: `NoisyMean` for real values and Bernoulli for binary ones.

    In a table, each channel gets the one that suits it.

    Raises:
        DriftworkError: a single noise is set for all channels of a table, although their units differ.
    """
    if data == "bernoulli":
        return Bernoulli(marginal)
    if marginal.table is None:
        return NoisyMean(marginal, noise)
    if noise != "channel":
        raise DriftworkError(f"model.noise={noise}: channels of a table differ in scale; set model.noise=channel")
    binary = torch.tensor(marginal.table.binary)
    channels = [at for at in ((~binary).nonzero()[:, 0], binary.nonzero()[:, 0]) if len(at)]
    parts = [Bernoulli(marginal.of(at)) if binary[at[0]] else NoisyMean(marginal.of(at), noise) for at in channels]
    return parts[0] if len(parts) == 1 else LikelihoodByChannel(channels, parts)
