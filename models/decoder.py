"""The decoder P(Y_t | X_t, h_t, last frame and its age), shared by all models of the VSDN family.

For a table it reads the last value of each channel and its age, whether there is one yet, and the static covariates.
With `from_neighbours` its means are differences from a base: the last observed values, or where the future is known the
straight line to the next.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwork.errors import DriftworkError
from models.batch import Batch, Between, by_channel, last_observed, next_observed, time_since
from models.gru_ode import DrivenConfig
from models.parts.entries import Widths
from models.parts.gain_shape import reader
from models.parts.likelihood_choice import likelihood as likelihood_of
from models.parts.likelihoods import Likelihood, LikelihoodName, Marginal, only
from models.parts.networks import full_precision, small
from models.predictive import Predictive


class Decoder(nn.Module):
    """A linear layer (VSDN, section 5) that outputs the parameters of a likelihood.

    Args:
        inputs: width of the input: the latent, the recurrent state, or both.
        config: the model's config. With `see_last` and `see_gaps` the decoder also reads the last observed frame and
            the time since then, so that every model can copy that frame equally easily.
        carried: number of first inputs that are differences of means from the base, one channel each, with
            `from_neighbours`.
    """

    places: Tensor
    """Parameters that are moved by the base of `channels`."""
    channels: Tensor
    """Channels whose means start from a base."""

    def __init__(
        self, inputs: int, likelihood: LikelihoodName, marginal: Marginal, config: DrivenConfig, carried: int = 0
    ) -> None:
        super().__init__()
        self.likelihood = likelihood_of(config.likelihood, likelihood, marginal, config.gain_shape, config.likelihoods)
        self.standardize = reader(marginal, config.gain_shape)
        self.see_last, self.see_gaps, self.time_unit = config.see_last, config.see_gaps, config.unit
        self.of_table = marginal.table is not None
        self.silence = not self.of_table and (likelihood == "bernoulli" or config.gain_shape)
        """Whether a frame of zeros is silence, which networks then read where there is no frame."""
        self.context = Widths(marginal, config.gain_shape).past(config.see_last, config.see_gaps)
        """Number of inputs from the past beside the state; the base follows them."""
        self.linear = nn.Linear(inputs + self.context, self.likelihood.width)
        self.from_neighbours = config.from_neighbours
        if self.from_neighbours:
            self._start_at_the_base(carried)
            return
        with torch.no_grad():
            self.linear.bias.add_(self.likelihood.of_marginal())

    def _start_at_the_base(self, carried: int) -> None:
        """Initialise the layer such that means are the base, plus the first `carried` inputs."""
        places = torch.tensor(_locations(self.likelihood))
        channels = (places >= 0).nonzero()[:, 0]
        self.register_buffer("places", places[channels], persistent=False)
        self.register_buffer("channels", channels, persistent=False)
        small(self.linear)
        number = torch.arange(min(carried, len(channels)))
        with torch.no_grad():
            self.linear.weight[self.places[number], number] = 1.0

    def past(self, batch: Batch, *, smoothed: bool = False) -> Tensor:
        """Return the decoder's inputs from the observations before each frame, [B, T, C]; the state is not in them. The
        base, if there is one, comes last; if `smoothed` is set it is on the straight line to the next observation."""
        parts = [batch.values[..., :0]]
        if self.see_last:
            parts.append(self.neighbour(last_observed(batch), None if self.silence else _before(batch)))
        if self.see_gaps:
            parts.append(time_since(batch, self.time_unit))
        if batch.entries:
            parts.append(batch.static[:, None].expand(-1, batch.times.shape[1], -1))
        if self.from_neighbours:
            parts.append(self.line(batch, own=False) if smoothed else self.last(batch))
        return torch.cat(parts, -1)

    def following(self, batch: Batch, *, own: bool) -> Tensor:
        """Return a network's inputs for the next observation after each frame, or at the frame if `own` is set."""
        return self.neighbour(next_observed(batch, own=own), None if self.silence else _after(batch, own=own))

    def neighbour(self, frames: Tensor, known: Tensor | None) -> Tensor:
        """Return a network's inputs [..., C] for observed frames [..., D], at unit scale.

        `known` [..., 1], or [..., D] for a table, is whether there is such a frame or value; where there is none the
        input is 0. Inputs for a table also contain `known`. None takes zeros in `frames` as they are."""
        standard: Tensor = self.standardize(frames)
        if known is None or self.silence:
            return standard
        flags = known.to(standard.dtype)
        return torch.cat([standard * flags, flags], -1) if self.of_table else standard * flags

    def last(self, batch: Batch) -> Tensor:
        """Return the value of each channel last observed before each time, in units of the marginal's scale, [B, T, D];
        0, the marginal's mean, where there is none yet."""
        return torch.where(_before(batch), self.standardize(last_observed(batch)), 0.0)

    def line(self, batch: Batch, *, own: bool) -> Tensor:
        """Return the straight line of each channel between its last observed value before each time and the first one
        after it, [B, T, D]. If `own` is set, values at the time count as after it.

        If only one of the two values exists the line is constant at it; if neither does the line is 0."""
        between = Between.of(batch, own=own)
        return torch.where(between.known, self.standardize(between.line), 0.0)

    def carried(self, ahead: Tensor, width: int) -> Tensor:
        """Return the values [..., width] of the first inputs, such that means start `ahead` [..., D] of the base. If
        there are fewer inputs than channels, the last channels have none."""
        return F.pad(ahead[..., self.channels[:width]], (0, max(width - len(self.channels), 0)))

    def forward(self, state: Tensor, past: Tensor) -> Tensor:
        """Return the likelihood's parameters [..., width] for states [..., inputs] and `past` [..., C]."""
        parameters: Tensor = self.linear(torch.cat([state, past[..., : self.context]], -1))
        if not self.from_neighbours:
            return parameters
        return full_precision(parameters).index_add(-1, self.places, past[..., self.context :][..., self.channels])

    def log_prob(self, state: Tensor, past: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log P(y | state, past) [...], in nats, of the channels that are `observed` [..., D], if given."""
        return self.likelihood.log_prob(self(state, past), y, *only(observed))

    def beta_log_prob(
        self, state: Tensor, past: Tensor, y: Tensor, observed: Tensor | None = None, *, beta: float
    ) -> Tensor:
        """Return log P(y | state, past) [...], in nats, weighted for training by `Likelihood.beta_log_prob`."""
        return self.likelihood.beta_log_prob(self(state, past), y, beta, *only(observed))

    def predictive(
        self, state: Callable[[Any], Tensor], past: Tensor, draws: int = 1, log_weights: Tensor | None = None
    ) -> Predictive:
        """Return the mixture of P(Y | state, past) over draws of the state.

        Args:
            state: function from the number of a draw, or from one for each row, to states [B, T, inputs]; as the
                `parameters` of `Predictive`.
            past: [B, T, C], see `past`.
            log_weights: [S, B, T], see `Predictive`.
        """
        return Predictive(self.likelihood, lambda s: self(state(s), past), draws, log_weights)


def _before(batch: Batch) -> Tensor:
    """Return whether there is an observation before each time, [B, T, 1], or for a table of each channel, [B, T, D]."""
    observed = by_channel(batch.observed).long()
    return observed.cumsum(1) > observed


def _after(batch: Batch, *, own: bool) -> Tensor:
    """Return whether there is an observation after each time, or at it if `own` is set, as `_before`."""
    observed = by_channel(batch.observed).long()
    return observed.flip(1).cumsum(1).flip(1) > (0 if own else observed)


def _locations(likelihood: Likelihood) -> list[int]:
    """Return the likelihood's `locations`. Raises `DriftworkError` where it has none."""
    if not hasattr(likelihood, "locations"):
        raise DriftworkError(
            f"model.from_neighbours=true: the likelihood {type(likelihood).__name__} has no method locations; add "
            "the method, as in docs/extending.md, or remove the setting"
        )
    return likelihood.locations()
