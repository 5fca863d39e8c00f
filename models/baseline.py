"""The baselines GRU-ODE (De Brouwer et al., 2019) and ODE-RNN (Rubanova et al., 2019), and a bidirectional GRU-ODE.

They have the same recurrent states, decoder and likelihood as VSDN, but no latent. The bidirectional model also reads
the future, and only interpolates."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.base import LatentDynamics, Objective, Smoother, Terms, per_sequence
from models.batch import Batch, Planner, time_until
from models.decoder import Decoder
from models.gru_ode import DrivenConfig, Events, GruOde
from models.parts.entries import Widths
from models.parts.likelihoods import LikelihoodName, Marginal
from models.parts.networks import mlp
from models.parts.once import once
from models.predictive import Predictive
from models.solvers.flow import ActivationName
from models.solvers.gru_flow import GruFlow
from models.solvers.mlp_flow import MlpFlow


class GruOdeConfig(DrivenConfig):
    name: Literal["gru_ode", "ode_rnn", "bi_gru_ode"]
    """Model. `gru_ode` flows between observations by a GRU cell, `ode_rnn` by a feed-forward network. `bi_gru_ode` is a
    bidirectional `gru_ode`, for interpolation alone."""
    flow_depth: int = Field(1, ge=1)
    """Number of hidden layers in the flow of `ode_rnn`."""
    flow_width: int | None = Field(None, ge=1)
    """Number of units in a hidden layer of the flow of `ode_rnn`. Null takes the value of `hidden`."""
    flow_activation: ActivationName = "tanh"
    """Activation function in the flow of `ode_rnn`. With tanh the state's rate of change is bounded; with elu, as
    published, it is not."""
    width: int = Field(1024, ge=1)
    """Number of units in a hidden layer between state and decoder."""
    depth: int = Field(4, ge=0)
    """Number of hidden layers between state and decoder. With the same layers as N1 of VSDN both models have the same
    capacity."""
    latent: int = Field(128, ge=1)
    """Number of outputs of the layers between state and decoder. The decoder reads them in addition to the state."""

    @model_validator(mode="after")
    def _only_ode_rnn_sizes_its_flow(self) -> Self:
        of_network = {"flow_depth", "flow_width", "flow_activation"}
        given = [name for name in of_network if getattr(self, name) != type(self).model_fields[name].default]
        if self.name != "ode_rnn" and given:
            first = min(given)
            raise ValueError(
                f"{first}={getattr(self, first)} is a setting of ode_rnn, but the flow of {self.name} is a GRU cell; "
                "remove it"
            )
        return self


class GruOdeModel(LatentDynamics):
    """P(Y_t | past) = D(N(h->-), h->-). The future is not read: interpolation uses the same state as prediction."""

    has_latent = False
    reads_entries = True

    def __init__(self, config: GruOdeConfig, likelihood: LikelihoodName, marginal: Marginal) -> None:
        super().__init__()
        c = config
        network = MlpFlow.sized(c.flow_depth, c.flow_width, c.flow_activation)
        flow = network if c.name == "ode_rnn" else GruFlow
        self.gru_ode = GruOde(marginal, c.hidden, 1, c.step, c.unit, flow, c.gain_shape, c.dropout)
        self.read = Widths(marginal, c.gain_shape).past(c.see_last, c.see_gaps) * c.from_neighbours
        self.features = mlp(c.hidden + self.read, c.width, c.depth, c.latent)
        self.decoder = Decoder(c.latent + c.hidden, likelihood, marginal, c)

    def planner(self) -> Planner | None:
        return self.gru_ode.planner(self.multiple())

    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the loss [B]. `kl_weight` has no effect, since there is no KL."""
        terms = self._terms(batch)
        return Objective(-terms.log_likelihood, terms)

    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        terms = self._terms(batch)  # exact, so the IWAE bound is the same number
        return terms, terms.log_likelihood

    @once
    def predict(self, batch: Batch, samples: int) -> Predictive:
        past = self.decoder.past(batch)
        state = self._read(self.gru_ode(batch, Events.of(batch)).at(0, batch, after=False), past)
        return self.decoder.predictive(lambda _: state, past)

    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        return self.predict(batch, samples)

    def _terms(self, batch: Batch) -> Terms:
        events = Events.of(batch)
        h = self.gru_ode(batch, events).at_events(0)[0]
        past = events.take(self.decoder.past(batch))
        log_likelihood = self.decoder.log_prob(self._read(h, past), past, events.values, events.observed)
        total = per_sequence(log_likelihood, events.valid)
        return Terms(total, torch.zeros_like(total), events.valid.sum(1))

    def _read(self, h: Tensor, past: Tensor) -> Tensor:
        return torch.cat([self.features(torch.cat([h, past[..., : self.read]], -1)), h], -1)


class BiGruOdeModel(Smoother):
    """P(Y_t | all observations but Y_t) = D(N(h->-, h<--), h->-, h<--): neither state has observed Y_t.

    It is trained on the pseudo-likelihood, sum_n log P(Y_n | all others) (Besag, 1975), which is neither the likelihood
    nor a bound on it. In a table, whose channels are observed separately, all channels of the time are left out:
    P(Y_t,c | all observations at other times).
    """

    has_latent = False
    reads_entries = True

    def __init__(self, config: GruOdeConfig, likelihood: LikelihoodName, marginal: Marginal) -> None:
        super().__init__()
        c = config
        self.gru_ode = GruOde(marginal, c.hidden, 2, c.step, c.unit, gain_shape=c.gain_shape, dropout=c.dropout)
        self.see_gaps, self.time_unit = c.see_gaps, c.unit
        widths = Widths(marginal, c.gain_shape)
        around = widths.gap * c.see_gaps
        if c.from_neighbours:
            around += widths.past(c.see_last, c.see_gaps) + widths.frame + len(marginal.mean)
        self.features = mlp(2 * c.hidden + around, c.width, c.depth, c.latent)
        self.decoder = Decoder(c.latent + 2 * c.hidden, likelihood, marginal, c)

    def planner(self) -> Planner | None:
        return self.gru_ode.planner(self.multiple())

    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the loss [B]. `kl_weight` has no effect, since there is no KL."""
        terms = self.pseudo_likelihood(batch)
        return Objective(-terms.log_likelihood, terms)

    def pseudo_likelihood(self, batch: Batch) -> Terms:
        events = Events.of(batch)
        trajectory = self.gru_ode(batch, events)
        ahead, back = (trajectory.at_events(direction)[0] for direction in (0, 1))
        past = self.decoder.past(batch, smoothed=True)
        state, past = self._read(ahead, back, events.take(self._around(batch, past))), events.take(past)
        log_likelihood = self.decoder.log_prob(state, past, events.values, events.observed)
        total = per_sequence(log_likelihood, events.valid)
        return Terms(total, torch.zeros_like(total), events.valid.sum(1))

    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        trajectory = self.gru_ode(batch, Events.of(batch))
        ahead, back = (trajectory.at(direction, batch, after=False) for direction in (0, 1))
        past = self.decoder.past(batch, smoothed=True)
        state = self._read(ahead, back, self._around(batch, past))
        return self.decoder.predictive(lambda _: state, past)

    def _around(self, batch: Batch, past: Tensor) -> Tensor:
        """Return the layers' inputs from the observations around each frame, beside the states, [B, T, C].

        These are the time until the next observation and, with `from_neighbours`, the decoder's inputs from the past,
        the next observed frame, and the difference of the straight line from the last value."""
        parts = [time_until(batch, self.time_unit, own=False) if self.see_gaps else batch.values[..., :0]]
        if self.decoder.from_neighbours:
            context, line = past[..., : self.decoder.context], past[..., self.decoder.context :]
            parts += [context, self.decoder.following(batch, own=False), line - self.decoder.last(batch)]
        return torch.cat(parts, -1)

    def _read(self, ahead: Tensor, back: Tensor, around: Tensor) -> Tensor:
        h = torch.cat([ahead, back], -1)
        return torch.cat([self.features(torch.cat([h, around], -1)), h], -1)
