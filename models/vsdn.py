"""VSDN-VAE (Liu et al., 2020, section 4): a latent at every observation time, driven by GRU-ODE states.

    prior      P(X_n | past)     = N1(h->-)            past: observations before t_n
    posterior  Q(X_n | all)      = N2(h->-, h<-)       the backward state has observed t_n and later
    decoder    P(Y_n | X_n, past) = D(X_n, h->-)
    ELBO       sum_n E_Q log P(Y_n | X_n, past) - beta KL(Q || P)

At an observation there are two backward states: h<-+, after Y_n is observed, and h<--, before. The ELBO, and `density`,
use the first. A fraction s of the training loss is -E log P(Y_n | X_n, past) with X_n ~ N2(h->-, h<--), which is
interpolation: the posterior has not observed the frame that it explains. Trained on the ELBO alone, the posterior
learns to copy a frame that interpolation does not provide. The loss is

    (1 - s) (beta KL - E log P) - s E log P (frame held out).

With a `prior_fraction` of p the loss is 1 - p times that, and -p E log P(Y_n | X_n, past) with X_n ~ N1(h->-).

Channels of a table are observed separately, and the posterior of a missing channel has observed the others at its time.
In a table s is therefore a fraction of the sequences: half of their observed entries are withheld from all networks,
and the loss is minus the log-likelihood of the withheld entries alone, times the number of entries over the number of
those withheld.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.base import LatentDynamics, Objective, Terms, per_sequence
from models.batch import Batch, Planner, time_since, time_until
from models.decoder import Decoder
from models.gru_ode import DrivenConfig, Events, GruOde
from models.parts.entries import Widths
from models.parts.likelihoods import LikelihoodName, Marginal
from models.parts.networks import Normal, mlp, small
from models.parts.noise import antithetic_draw, keyed_normal
from models.predictive import Predictive

_HELD_OUT = 1 << 20
"""Stream of a sequence's noise that selects held-out frames; the next stream selects held-out entries of a table.
Latents use smaller numbers."""


class VsdnConfig(DrivenConfig):
    """Settings that VSDN-VAE and VSDN-SDE share."""

    renamed: ClassVar[Mapping[str, str]] = {
        "unseen_share": "held_out_fraction",
        "unseen_beta": "held_out_beta",
        "prior_share": "prior_fraction",
    }

    latent: int = Field(128, ge=1)
    """Number of components Z of the latent."""
    width: int = Field(1024, ge=1)
    """Number of units in a hidden layer of the prior network N1 and the posterior network N2."""
    depth: int = Field(4, ge=0)
    """Number of hidden layers in the prior network N1 and the posterior network N2."""
    see_next: bool = False
    """Whether the posterior also reads the next observed frame. Off by default."""
    free_nats: float = Field(0.0, ge=0)
    """KL per frame that is not penalised, in nats. It keeps the posterior from collapsing onto the prior; 0 penalises
    all of the KL."""
    prior_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the training loss with the latent drawn from the prior: -E log P(Y_n | X_n, past) with X_n from the
    prior given the past, which is what forecasting needs. 0 leaves it out, as published."""
    held_out_beta: float = Field(0.0, ge=0, le=1)
    """Exponent beta of the beta-NLL that replaces, in training, the log-likelihood of frames withheld from the
    posterior (`Likelihood.beta_log_prob`). 0 keeps the log-likelihood."""


class VsdnVaeConfig(VsdnConfig):
    name: Literal["vsdn_vae", "vsdn_vae_res"]
    """Model. `vsdn_vae_res` learns the posterior mean as a difference from the prior mean."""
    held_out_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the training loss with the target frame withheld from the posterior. For a table: fraction of the
    training sequences in which half of the entries are withheld from all networks and then predicted. 0 trains on the
    published objective."""


class VsdnVae(LatentDynamics):
    reads_entries = True

    def __init__(self, config: VsdnVaeConfig, likelihood: LikelihoodName, marginal: Marginal) -> None:
        super().__init__()
        c = config
        self.latent, self.free_nats, self.of_table = c.latent, c.free_nats, marginal.table is not None
        self.dim = len(marginal.mean)
        self.held_out_fraction, self.held_out_beta = c.held_out_fraction, c.held_out_beta
        self.prior_fraction = c.prior_fraction
        self.residual = c.name == "vsdn_vae_res"
        self.gru_ode = GruOde(marginal, c.hidden, 2, c.step, c.unit, gain_shape=c.gain_shape, dropout=c.dropout)
        widths = Widths(marginal, c.gain_shape)
        self.read = widths.past(c.see_last, c.see_gaps) * c.from_neighbours
        self.prior_net = mlp(c.hidden + self.read, c.width, c.depth, 2 * c.latent)
        self.see_next, self.see_gaps, self.time_unit = c.see_next, c.see_gaps, c.unit
        around = widths.frame * c.see_next + 2 * widths.gap * c.see_gaps + 2 * self.dim * c.from_neighbours
        self.posterior_net = mlp(2 * c.hidden + around, c.width, c.depth, 2 * c.latent)
        self.decoder = Decoder(c.latent + c.hidden, likelihood, marginal, c, carried=c.latent)
        if c.from_neighbours:
            for network in (self.prior_net, self.posterior_net):
                small(network[-1])

    def planner(self) -> Planner | None:
        return self.gru_ode.planner(self.multiple(), keeping(self.held_out_fraction if self.of_table else 0.0))

    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the loss [B] with beta = `kl_weight`, and the terms of the ELBO, which equal those of `density`."""
        if batch.entries:
            return self._forward_of_table(batch, kl_weight)
        events = Events.of(batch)
        trajectory = self.gru_ode(batch, events)
        h = trajectory.at_events(0)[0]
        before, after = trajectory.at_events(1)
        past = events.take(self.decoder.past(batch))
        prior = self._prior(h, past)
        noise = keyed_normal(batch.seed, h.shape[1], self.latent)
        posterior = self._posterior(prior, h, after, events.take(self._around(batch, own=True)))
        log_likelihood = self._log_likelihood(posterior.sample(noise), h, past, events)
        kl = posterior.kl(prior)
        paid = kl_weight * per_sequence(kl.clamp_min(self.free_nats), events.valid)
        terms = Terms(per_sequence(log_likelihood, events.valid), per_sequence(kl, events.valid), events.valid.sum(1))
        loss = paid - terms.log_likelihood
        if self.held_out_fraction > 0:
            x = self._posterior(prior, h, before, events.take(self._around(batch, own=False))).sample(noise)
            smoothing = self._beta_log_likelihood(x, h, past, events)
            loss = torch.lerp(loss, -per_sequence(smoothing, events.valid), self.held_out_fraction)
        if self.prior_fraction > 0:
            predicted = self._log_likelihood(prior.sample(noise), h, past, events)
            loss = torch.lerp(loss, -per_sequence(predicted, events.valid), self.prior_fraction)
        return Objective(loss, terms)

    def _forward_of_table(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the objective of a table. If nothing is withheld, the terms are those of `density`."""
        events, kept = Events.of(batch), without_held_out(batch, self.held_out_fraction)
        trajectory = self.gru_ode(kept, Events.of(kept))
        h, later = (events.take(trajectory.at(d, kept, after=d == 1)) for d in (0, 1))
        past = events.take(self.decoder.past(kept))
        prior, noise = self._prior(h, past), keyed_normal(batch.seed, h.shape[1], self.latent)
        posterior = self._posterior(prior, h, later, events.take(self._around(kept, own=True)))
        x, kl = posterior.sample(noise), posterior.kl(prior)
        log_likelihood = per_sequence(self._log_likelihood(x, h, past, events), events.valid)
        terms = Terms(log_likelihood, per_sequence(kl, events.valid), events.valid.sum(1))
        loss = kl_weight * per_sequence(kl.clamp_min(self.free_nats), events.valid) - log_likelihood
        if self.held_out_fraction > 0:
            withheld, count, total = held_out(events, kept)
            score = per_sequence(self._beta_log_likelihood(x, h, past, withheld), withheld.valid)
            loss = torch.where(count > 0, -score * total / count.clamp_min(1), loss)
        if self.prior_fraction > 0:
            predicted = self._log_likelihood(prior.sample(noise), h, past, events)
            loss = torch.lerp(loss, -per_sequence(predicted, events.valid), self.prior_fraction)
        return Objective(loss, terms)

    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        events = Events.of(batch)
        trajectory = self.gru_ode(batch, events)
        h = trajectory.at_events(0)[0]
        past = events.take(self.decoder.past(batch))
        prior = self._prior(h, past)
        around = events.take(self._around(batch, own=True))
        posterior = self._posterior(prior, h, trajectory.at_events(1)[1], around)
        log_likelihoods, log_weights = [], []
        for s in range(samples):
            x = posterior.sample(keyed_normal(batch.seed, h.shape[1], self.latent, stream=s))
            log_likelihoods.append(self._log_likelihood(x, h, past, events))
            log_weights.append(log_likelihoods[-1] + prior.log_prob(x) - posterior.log_prob(x))
        # Given the states, frames are independent: the weights are averaged frame by frame, not path by path.
        weighted = torch.stack(log_weights).logsumexp(0) - math.log(samples)
        terms = Terms(
            per_sequence(torch.stack(log_likelihoods).mean(0), events.valid),
            per_sequence(posterior.kl(prior), events.valid), events.valid.sum(1),
        )  # fmt: skip
        return terms, per_sequence(weighted, events.valid)

    def predict(self, batch: Batch, samples: int) -> Predictive:
        h, past = self.gru_ode(batch, Events.of(batch)).at(0, batch, after=False), self.decoder.past(batch)
        return self._predictive(self._prior(h, past), h, past, batch.seed, samples)

    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        trajectory = self.gru_ode(batch, Events.of(batch))
        h, past = trajectory.at(0, batch, after=False), self.decoder.past(batch)
        around = self._around(batch, own=True)
        posterior = self._posterior(self._prior(h, past), h, trajectory.at(1, batch, after=True), around)
        return self._predictive(posterior, h, past, batch.seed, samples)

    def _prior(self, h: Tensor, past: Tensor) -> Normal:
        return Normal.of(self.prior_net(torch.cat([h, past[..., : self.read]], -1)))

    def _around(self, batch: Batch, *, own: bool) -> Tensor:
        """Return N2's inputs from the observations around each frame, [B, T, C], without the states.

        These are the next observed frame (the frame itself if `own` is set and it is observed), the time since the
        last observation, and the time until the next; with `from_neighbours` also the last values, and the difference
        of the straight line from these."""
        parts = [batch.values[..., :0]]
        if self.see_next:
            parts.append(self.decoder.following(batch, own=own))
        if self.see_gaps:
            parts += [time_since(batch, self.time_unit), time_until(batch, self.time_unit, own=own)]
        if self.decoder.from_neighbours:
            last = self.decoder.last(batch)
            parts += [last, self.decoder.line(batch, own=own) - last]
        return torch.cat(parts, -1)

    def _posterior(self, prior: Normal, h: Tensor, later: Tensor, around: Tensor) -> Normal:
        posterior = Normal.of(self.posterior_net(torch.cat([h, later, around], -1)))
        if self.decoder.from_neighbours:
            line = self.decoder.carried(around[..., -self.dim :], self.latent)
            posterior = posterior._replace(mean=posterior.mean + line)
        return posterior._replace(mean=prior.mean + posterior.mean) if self.residual else posterior

    def _log_likelihood(self, x: Tensor, h: Tensor, past: Tensor, events: Events) -> Tensor:
        return self.decoder.log_prob(torch.cat([x, h], -1), past, events.values, events.observed)

    def _beta_log_likelihood(self, x: Tensor, h: Tensor, past: Tensor, events: Events) -> Tensor:
        state = torch.cat([x, h], -1)
        return self.decoder.beta_log_prob(state, past, events.values, events.observed, beta=self.held_out_beta)

    def _predictive(self, latent: Normal, h: Tensor, past: Tensor, seed: Tensor, samples: int) -> Predictive:
        """Return P(Y_t) under the distribution `latent`, as a mixture of `samples` draws."""

        def state(s: int) -> Tensor:
            x = latent.sample(antithetic_draw(seed, h.shape[1], self.latent, s))
            return torch.cat([x, h], -1)

        return self.decoder.predictive(state, past, samples)


def without_held_out(batch: Batch, share: float) -> Batch:
    """Return the batch without held-out frames in a random fraction `share` of the sequences.

    Every second observed frame is held out, or in a table a random half of the observed entries."""
    if share == 0:
        return batch
    if batch.plan is not None and batch.plan.grids.kept is not None:
        return batch._replace(**batch.plan.grids.kept._asdict())
    draw = torch.special.ndtr(keyed_normal(batch.seed, 2, 1, stream=_HELD_OUT)[..., 0])  # uniform, [B, 2]
    if batch.entries:
        T, D = batch.values.shape[1:]
        stays = keyed_normal(batch.seed, T, D, stream=_HELD_OUT + 1) > 0
        return batch.changed(observed=batch.observed & (stays | (draw[:, :1, None] >= share)))
    number = batch.observed.cumsum(1) + (draw[:, 1:] < 0.5)  # the first held-out frame is random too
    return batch.changed(observed=batch.observed & ((number % 2 == 0) | (draw[:, :1] >= share)))


def keeping(share: float) -> Callable[[Batch], Batch] | None:
    """Return `without_held_out` for a fraction `share`, or None if nothing is held out."""
    return partial(without_held_out, share=share) if share > 0 else None


def held_out(events: Events, kept: Batch) -> tuple[Events, Tensor, Tensor]:
    """Return the events that `kept` lacks, their number [B], and the number of all events [B].

    The numbers count frames, or entries of a table."""
    if events.observed is None:
        withheld = events._replace(valid=events.valid & ~kept.observed.gather(1, events.frame))
        return withheld, withheld.valid.sum(1), events.valid.sum(1)
    observed = events.observed & ~events.take(kept.observed)
    return events._replace(valid=observed.any(2), observed=observed), observed.sum((1, 2)), events.observed.sum((1, 2))
