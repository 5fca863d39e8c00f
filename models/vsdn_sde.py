"""VSDN-SDE (Liu et al., 2020, section 4): a latent that follows a stochastic differential equation, driven by GRU-ODE.

    prior      dX = H_G dt + R dW,  [H_G, R] = N1(h->, X)      h->: observations up to the start of a step
    posterior  dX = H_Q dt + R dW,  H_Q = N2(h->, h<-, X)      h<-: those from the end of the step on
    decoder    P(Y_n | X_n, past) = D(X_n, h->-)
    bound      sum_n E_Q log P(Y_n | X_n, past) - beta KL,     KL = 1/2 E_Q integral |R^-1 (H_Q - H_G)|^2 dt

X_0 is a constant. Euler-Maruyama on a grid that contains the observation times; for the model of these steps, KL and
bound are exact. Both drifts pull towards a bounded target (`sde_loop`), so that no path runs away.

A share of the sequences, drawn anew each epoch, trains interpolation instead of the bound: every second observed frame
is shown to no network, and the loss is -2 E log P of these. The posterior of the bound has seen each frame it explains,
and would learn to copy one that interpolation does not give it (as VSDN-VAE's would: `vsdn`). With a `prior_share` of p
the loss is 1 - p times that, and -p E log P of the observed frames along paths of the prior.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models import sde, timegrid
from models.base import LatentDynamics, Objective, Terms, per_sequence
from models.batch import Batch
from models.decoder import Decoder
from models.gain_shape import reader
from models.gru_ode import Events, GruOde, Trajectory, clock_of
from models.likelihoods import LikelihoodName, Marginal
from models.networks import full_precision
from models.noise import antithetic_normal, keyed_normal
from models.predictive import Predictive
from models.sde_loop import Shape, Weights
from models.vsdn import VsdnConfig

_PRIOR = (0,)
_HELD_OUT = 1 << 20
"""Stream of a sequence's noise that says what is held out; the n-th pair of paths uses 2 n at its steps and
2 n + 1 between them."""


class VsdnSdeConfig(VsdnConfig):
    name: Literal["vsdn_sde", "vsdn_sde_res"]
    """`_res` learns H_Q - H_G."""
    depth: int = Field(4, ge=1)
    """Hidden layers of N1 and N2."""
    bound: float = Field(4.0, gt=0)
    """Of each component of a drift's target."""
    diffusion: tuple[float, float] = (0.1, 1.0)
    """Smallest and largest R, a square root of time units."""
    substeps: int = Field(1, ge=1)
    """Steps of X in one of the recurrent state: prior and posterior share R, so that only over several steps can a
    posterior get narrower than its prior."""
    samples: int = Field(1, ge=1)
    """Paths a sequence in training."""
    unseen_share: float = Field(0.0, ge=0, lt=1)
    """Share of the sequences that train on frames shown to no network; 0: the published objective."""
    solver: sde.SolverName = "direct"

    @model_validator(mode="after")
    def _stable(self) -> Self:
        if self.max_step > self.time_unit:
            raise ValueError(
                f"max_step={self.max_step} is longer than time_unit={self.time_unit}: a step would overshoot"
            )
        if not 0 < self.diffusion[0] < self.diffusion[1]:
            raise ValueError(f"diffusion={self.diffusion} is no range of positive numbers")
        return self


class Drifts(nn.Module):
    """N1 and N2 side by side, as `sde_loop` takes them."""

    def __init__(self, past: int, future: int, latent: int, width: int, depth: int) -> None:
        super().__init__()
        self.read_past, self.read_all = nn.Linear(past, width), nn.Linear(past + future, width)
        self.state = nn.Parameter(torch.empty(2, width, latent))
        self.hidden = nn.Parameter(torch.empty(depth - 1, 2, width, width)) if depth > 1 else None
        self.hidden_bias = nn.Parameter(torch.empty(depth - 1, 2, 1, width)) if depth > 1 else None
        self.prior, self.prior_bias = (
            nn.Parameter(torch.empty(2 * latent, width)),
            nn.Parameter(torch.empty(2 * latent)),
        )
        self.posterior, self.posterior_bias = (
            nn.Parameter(torch.empty(latent, width)),
            nn.Parameter(torch.empty(latent)),
        )
        for name, parameter in self.named_parameters(recurse=False):  # as torch.nn.Linear does
            bound = (latent if name == "state" else width) ** -0.5
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, past: Tensor, future: Tensor | None) -> tuple[Tensor, Weights]:
        """The share of the first layer that is not X's, [M, G, B, W], and all that X meets; of N1 alone where there is
        no future."""
        G, latent = (1 if future is None else 2), len(self.posterior)
        shares = [self.read_past(past)]
        if future is not None:
            shares.append(self.read_all(torch.cat([past, future], -1)))
        V = torch.stack([self.prior, F.pad(self.posterior, (0, 0, 0, latent))])
        c = torch.stack([self.prior_bias, F.pad(self.posterior_bias, (0, latent))])[:, None]
        hidden, bias = (() if x is None else x[:, :G].unbind() for x in (self.hidden, self.hidden_bias))
        return full_precision(torch.stack(shares, 1)), Weights(self.state[:G], hidden, bias, V[:G], c[:G])


class Latent(NamedTuple):
    """S paths of X, read at the frames of a batch."""

    x: Tensor
    """[S, B, T, Z]"""
    h: Tensor
    """[B, T, H] forward state just before each frame."""
    past: Tensor
    """[B, T, C] what else the decoder reads of the past."""
    kl: Tensor
    """[S, B] sum over steps of 1/2 |u|^2, where u = R^-1 (H_Q - H_G) sqrt(dt); 0 for the prior's own paths."""
    martingale: Tensor
    """[S, B] sum over steps of u epsilon: log dP/dQ of a path is -(kl + martingale)."""


class VsdnSde(LatentDynamics):
    def __init__(self, config: VsdnSdeConfig, likelihood: LikelihoodName, marginal: Marginal) -> None:
        super().__init__()
        c = self.config = config
        self.posterior = (0, 1) if c.name == "vsdn_sde_res" else (1,)
        self.gru_ode = GruOde(marginal, c.hidden, 2, c.max_step, c.time_unit, gain_shape=c.gain_shape)
        future = c.hidden + reader(marginal, c.gain_shape).width * c.see_next + c.see_gaps
        self.drifts = Drifts(c.hidden, future, c.latent, c.width, c.depth)
        self.x0 = nn.Parameter(torch.zeros(c.latent))
        self.decoder = Decoder(c.latent + c.hidden, likelihood, marginal, c)

    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Loss [B] with beta = `kl_weight`, and the terms of the bound (with nothing held out, those of `density`)."""
        c, events, shown = self.config, Events.of(batch), self._shown(batch)
        latent = self._latent(shown, self.posterior, c.samples)
        log_likelihood = self._sum_of(self.decoder.log_prob, latent, events).mean(0)
        terms = Terms(log_likelihood, latent.kl.mean(0), events.valid.sum(1))
        loss = kl_weight * torch.maximum(terms.kl, c.free_nats * terms.frames) - log_likelihood
        if c.unseen_share > 0:
            unseen = events._replace(valid=events.valid & ~shown.observed.gather(1, events.frame))
            score = self._sum_of(partial(self.decoder.beta_log_prob, beta=c.unseen_beta), latent, unseen).mean(0)
            count = unseen.valid.sum(1)
            loss = torch.where(count > 0, -score * terms.frames / count.clamp_min(1), loss)
        if c.prior_share > 0:
            predicted = self._sum_of(self.decoder.log_prob, self._latent(shown, _PRIOR, c.samples), events).mean(0)
            loss = torch.lerp(loss, -predicted, c.prior_share)
        return Objective(loss, terms)

    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        events = Events.of(batch)
        latent = self._latent(batch, self.posterior, samples)
        log_likelihood = self._sum_of(self.decoder.log_prob, latent, events)
        weighted = (log_likelihood - latent.kl - latent.martingale).logsumexp(0) - math.log(samples)
        return Terms(log_likelihood.mean(0), latent.kl.mean(0), events.valid.sum(1)), weighted

    def predict(self, batch: Batch, samples: int) -> Predictive:
        return self._predictive(self._latent(batch, _PRIOR, samples))

    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        return self._predictive(self._latent(batch, self.posterior, samples))

    def _shown(self, batch: Batch) -> Batch:
        """The batch without what training holds out: of a share of the sequences every second observed frame."""
        share = self.config.unseen_share
        if share == 0:
            return batch
        draw = torch.special.ndtr(keyed_normal(batch.seed, 2, 1, stream=_HELD_OUT)[..., 0])  # uniform, [B, 2]
        number = batch.observed.cumsum(1) + (draw[:, 1:] < 0.5)  # which is first is drawn too
        return batch._replace(observed=batch.observed & ((number % 2 == 0) | (draw[:, :1] >= share)))

    def _latent(self, batch: Batch, driver: tuple[int, ...], samples: int) -> Latent:
        """Paths of the SDE whose drift `driver` names, given what the batch shows."""
        c, B, S = self.config, len(batch.observed), samples
        events = Events.of(batch)
        trajectory: Trajectory = self.gru_ode(batch, events)
        start, future = trajectory.steps()
        following, gap = _next_at_steps(events, trajectory.rows(0))
        if c.see_next:
            future = torch.cat([future, self.decoder.standardize(following)], -1)
        if c.see_gaps:
            future = torch.cat([future, gap.log1p().to(future)], -1)
        pre, weights = self.drifts(start, None if driver == _PRIOR else future)
        pre, grid = pre.repeat_interleave(c.substeps, 0), timegrid.refine(trajectory.rows(0), c.substeps)
        M, dtype = pre.shape[0], pre.dtype
        dt = grid.dt.T[..., None].to(dtype).repeat(1, S, 1)
        noise = antithetic_normal(batch.seed, M, c.latent, S, uses=2).to(dtype)
        noise = noise.permute(2, 0, 1, 3).reshape(M, S * B, c.latent)
        shape = Shape(c.bound, *c.diffusion, driver)
        x0 = self.x0.to(dtype).expand(S * B, -1)
        paths = sde.solve(x0, pre.repeat(1, 1, S, 1), weights, dt, noise, shape, c.solver)
        diffusion = shape.diffusion(paths.outputs)
        kl = martingale = x0.new_zeros(S, B)
        if driver != _PRIOR:
            gap = shape.target(paths.outputs, driver) - shape.target(paths.outputs, _PRIOR)
            u = dt.sqrt() * gap / diffusion
            kl, martingale = (x.sum((0, 2)).view(S, B) for x in (0.5 * u.square(), u * noise))
        states = torch.cat([x0[None], paths.states])
        x = self._at_frames(states.view(M + 1, S, B, -1), diffusion.view(M, S, B, -1), grid, batch)
        return Latent(x, trajectory.at(0, batch, after=False), self.decoder.past(batch), kl, martingale)

    def _at_frames(self, states: Tensor, diffusion: Tensor, grid: timegrid.TimeGrid, batch: Batch) -> Tensor:
        """[S, B, T, Z] from the paths [M + 1, S, B, Z]: between two steps, a Brownian bridge."""
        S = states.shape[1]
        step, fraction = timegrid.locate(grid, clock_of(batch, 0, self.config.time_unit))
        row = torch.arange(step.shape[0], device=step.device)[:, None]
        noise = antithetic_normal(batch.seed, step.shape[1], states.shape[3], S, uses=2, use=1).to(states)
        theta, dt = (x[..., None, None].to(states.dtype) for x in (fraction, grid.dt.gather(1, step)))
        # Two indices around a slice: [B, T, S, Z].
        bridge = (theta * (1 - theta) * dt).sqrt() * diffusion[step, :, row] * noise.permute(1, 2, 0, 3)
        x = torch.lerp(states[step, :, row], states[step + 1, :, row], theta) + bridge
        return x.permute(2, 0, 1, 3)

    def _sum_of(self, score: Callable[..., Tensor], latent: Latent, events: Events) -> Tensor:
        """A decoder's score of each event, summed over a sequence's: [S, B]."""
        h, past = events.take(latent.h), events.take(latent.past)
        each = [score(torch.cat([events.take(x), h], -1), past, events.values) for x in latent.x]
        return torch.stack([per_sequence(x, events.valid) for x in each])

    def _predictive(self, latent: Latent) -> Predictive:
        """P(Y_t), every path with the same weight."""
        return self.decoder.predictive(lambda s: torch.cat([latent.x[s], latent.h], -1), latent.past, len(latent.x))


def _next_at_steps(events: Events, grid: timegrid.TimeGrid) -> tuple[Tensor, Tensor]:
    """The frame observed at the end of each step, or else next after it, [M, B, D], 0 where there is none; and how long
    after the end it is, [M, B, 1], or the end of the sequence where there is none."""
    K, M = events.valid.shape[1], grid.dt.shape[1]
    stop = torch.where(events.valid, grid.stop, M)
    at = torch.searchsorted(stop, torch.arange(M, device=stop.device).expand(len(stop), M).contiguous())
    frames = events.values.gather(1, at.clamp_max(K - 1)[..., None].expand(-1, -1, events.values.shape[2]))
    valid = (at < K) & events.valid.gather(1, at.clamp_max(K - 1))
    clock = torch.where(
        valid, grid.end.gather(1, stop.gather(1, at.clamp_max(K - 1)).clamp_max(M - 1)), grid.end[:, -1:]
    )
    gap = (clock - grid.end)[..., None]
    return torch.where(valid[..., None], frames, 0.0).transpose(0, 1), gap.transpose(0, 1)
