"""P(Y_t | X_t, h_t, last frame): the decoder that all models of the VSDN family share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.gain_shape import likelihood as likelihood_of
from models.gain_shape import reader
from models.likelihoods import LikelihoodName, Marginal
from models.predictive import Predictive


class Decoder(nn.Module):
    """One linear layer (VSDN, section 5) and the likelihood whose parameters it gives.

    Args:
        inputs: width of what it reads: the latent, the recurrent state, or both.
        see_last: whether it also reads the last observed frame, which makes copying it free for every model alike.
        gain_shape: whether it reads and says frames as a gain and a shape.
    """

    def __init__(
        self, inputs: int, likelihood: LikelihoodName, marginal: Marginal, see_last: bool, gain_shape: bool
    ) -> None:
        super().__init__()
        self.likelihood = likelihood_of(likelihood, marginal, gain_shape)
        self.standardize = reader(marginal, gain_shape)
        self.see_last = see_last
        self.linear = nn.Linear(inputs + self.standardize.width * see_last, self.likelihood.width)

    def forward(self, state: Tensor, last: Tensor) -> Tensor:
        """Parameters of the likelihood [..., width] from state [..., inputs] and last frame [..., D]."""
        parameters: Tensor = self.linear(torch.cat([state, self.standardize(last)], -1) if self.see_last else state)
        return parameters

    def log_prob(self, state: Tensor, last: Tensor, y: Tensor) -> Tensor:
        """log P(y | state, last) [...], nats."""
        return self.likelihood.log_prob(self(state, last), y)

    def beta_log_prob(self, state: Tensor, last: Tensor, y: Tensor, beta: float) -> Tensor:
        """The same, weighted for training as `Likelihood.beta_log_prob` says."""
        return self.likelihood.beta_log_prob(self(state, last), y, beta)

    def predictive(
        self, state: Callable[[int], Tensor], last: Tensor, draws: int = 1, log_weights: Tensor | None = None
    ) -> Predictive:
        """Return the mixture of P(Y | state, last) over draws of the state.

        Args:
            state: number of a draw -> [B, T, inputs]. last: [B, T, D].
            log_weights: [S, B, T] as of `Predictive`.
        """
        return Predictive(self.likelihood, lambda s: self(state(s), last), draws, log_weights)
