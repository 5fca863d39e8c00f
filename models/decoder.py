"""The decoder P(Y_t | X_t, h_t, last frame and its age), shared by all models of the VSDN family.

For a table it reads the last value of each channel and its age, whether there is one yet, and the static covariates.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.base import last_observed, next_observed, time_since
from models.batch import Batch
from models.gru_ode import DrivenConfig
from models.parts.entries import Widths
from models.parts.gain_shape import reader
from models.parts.likelihood_choice import likelihood as likelihood_of
from models.parts.likelihoods import LikelihoodName, Marginal, only
from models.predictive import Predictive


class Decoder(nn.Module):
    """A linear layer (VSDN, section 5) that outputs the parameters of a likelihood.

    Args:
        inputs: width of the input: the latent, the recurrent state, or both.
        config: the model's config. With `see_last` and `see_gaps` the decoder also reads the last observed frame and
            the time since then, so that every model can copy that frame equally easily.
    """

    def __init__(self, inputs: int, likelihood: LikelihoodName, marginal: Marginal, config: DrivenConfig) -> None:
        super().__init__()
        self.likelihood = likelihood_of(config.likelihood, likelihood, marginal, config.gain_shape, config.likelihoods)
        self.standardize = reader(marginal, config.gain_shape)
        self.see_last, self.see_gaps, self.time_unit = config.see_last, config.see_gaps, config.unit
        widths = Widths(marginal, config.gain_shape)
        context = widths.frame * config.see_last + widths.gap * config.see_gaps + widths.static
        self.linear = nn.Linear(inputs + context, self.likelihood.width)
        with torch.no_grad():
            self.linear.bias.add_(self.likelihood.of_marginal())

    def past(self, batch: Batch) -> Tensor:
        """Return the decoder's inputs from the observations before each frame, [B, T, C], without the state."""
        parts = [batch.values[..., :0]]
        if self.see_last:
            observed = batch.observed.long() if batch.entries else None
            known = None if observed is None else observed.cumsum(1) > observed
            parts.append(self.neighbour(last_observed(batch), known))
        if self.see_gaps:
            parts.append(time_since(batch, self.time_unit))
        if batch.entries:
            parts.append(batch.static[:, None].expand(-1, batch.times.shape[1], -1))
        return torch.cat(parts, -1)

    def following(self, batch: Batch, *, own: bool) -> Tensor:
        """Return a network's inputs for the next observation after each frame, or at the frame if `own` is set."""

        observed = batch.observed.long() if batch.entries else None
        known = None if observed is None else observed.flip(1).cumsum(1).flip(1) > (0 if own else observed)
        return self.neighbour(next_observed(batch, own=own), known)

    def neighbour(self, frames: Tensor, known: Tensor | None) -> Tensor:
        """Return a network's inputs [..., C] for observed frames [..., D].

        For a table these are the values of the channels that are `known` [..., D], 0 for the others, and the flags
        `known`. If masks are of whole frames, `known` is None."""
        standard: Tensor = self.standardize(frames)
        if known is None:
            return standard
        flags = known.to(standard.dtype)
        return torch.cat([standard * flags, flags], -1)

    def forward(self, state: Tensor, past: Tensor) -> Tensor:
        """Return the likelihood's parameters [..., width] for states [..., inputs] and `past` [..., C]."""
        parameters: Tensor = self.linear(torch.cat([state, past], -1))
        return parameters

    def log_prob(self, state: Tensor, past: Tensor, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log P(y | state, past) [...], in nats, of the channels that are `observed` [..., D], if given."""
        return self.likelihood.log_prob(self(state, past), y, *only(observed))

    def beta_log_prob(
        self, state: Tensor, past: Tensor, y: Tensor, observed: Tensor | None = None, *, beta: float
    ) -> Tensor:
        """Return log P(y | state, past) [...], in nats, weighted for training by `Likelihood.beta_log_prob`."""
        return self.likelihood.beta_log_prob(self(state, past), y, beta, *only(observed))

    def predictive(
        self, state: Callable[[int], Tensor], past: Tensor, draws: int = 1, log_weights: Tensor | None = None
    ) -> Predictive:
        """Return the mixture of P(Y | state, past) over draws of the state.

        Args:
            state: function from the number of a draw to its states [B, T, inputs].
            past: [B, T, C], see `past`.
            log_weights: [S, B, T], see `Predictive`.
        """
        return Predictive(self.likelihood, lambda s: self(state(s), past), draws, log_weights)
