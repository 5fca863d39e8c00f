"""VSDN-SDE (Liu et al., 2020, section 4): a latent that follows a stochastic differential equation, driven by GRU-ODE.

    prior      dX = H_G dt + R dW,  [H_G, R] = N1(h->, X)      h->: observations up to the start of a step
    posterior  dX = H_Q dt + R dW,  H_Q = N2(h->, h<-, X)      h<-: observations from the end of the step on
    decoder    P(Y_n | X_n, past) = D(X_n, h->-)
    ELBO       sum_n E_Q log P(Y_n | X_n, past) - beta KL,     KL = 1/2 E_Q integral |R^-1 (H_Q - H_G)|^2 dt

The integral ends at the last observation: after it the posterior is the prior. X_0 is a constant. Paths are solved by
Euler-Maruyama steps on a grid that contains the observation times; for this discretised model, KL and ELBO are exact.
Both drifts pull towards a bounded target (`sde_loop`), so that no path diverges.

A fraction of the sequences, drawn anew each epoch, trains interpolation: every second observed frame is held out from
all networks, and the loss is beta KL - 2 E log P of these. In the ELBO the posterior has observed each frame that it
explains, and would learn to copy a frame that interpolation does not provide (as in `vsdn`). With a `prior_fraction` of
p the loss is 1 - p times that, and -p E log P of the observed frames along paths of the prior.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.base import Filtered, Objective, StateSpace, Terms, per_sequence
from models.batch import Batch, Planner, first_rows, rows_at
from models.decoder import Decoder
from models.grids import clock_of, grids_of
from models.gru_ode import Events, GruOde, Trajectory
from models.particle_filter import Cloud, FilterState, Stretch, stretches_of, uniforms
from models.parts.drifts import Drifts
from models.parts.entries import Widths
from models.parts.likelihoods import LikelihoodName, Marginal
from models.parts.noise import antithetic_normal
from models.parts.once import once
from models.predictive import Predictive
from models.solvers import sde, timegrid
from models.solvers.sde import PRIOR
from models.solvers.sde_loop import Shape
from models.solvers.timegrid import TimeGrid
from models.vsdn import VsdnConfig, held_out, keeping, without_held_out


class VsdnSdeConfig(VsdnConfig):
    name: Literal["vsdn_sde", "vsdn_sde_res"]
    """Model. `vsdn_sde_res` learns the posterior drift as a difference H_Q - H_G from the prior drift."""
    depth: int = Field(4, ge=1)
    """Number of hidden layers in the prior network N1 and the posterior network N2."""
    bound: float = Field(4.0, gt=0)
    """Largest absolute value of each component of the target that a drift pulls towards, in units of the latent, which
    has no physical unit. The posterior of `vsdn_sde_res` adds two such targets."""
    diffusion: tuple[float, float] = (0.1, 1.0)
    """Smallest and largest diffusion R, in units of the latent per square root of the time unit."""
    substeps: int = Field(1, ge=1)
    """Number of steps of the latent in one step of the recurrent state. Prior and posterior share the diffusion, so the
    posterior can become narrower than its prior only over several steps."""
    samples: int = Field(1, ge=1)
    """Number of latent paths for each sequence in training."""
    held_out_fraction: float = Field(0.0, ge=0, lt=1)
    """Fraction of the training sequences in which frames are withheld from all networks and then predicted. 0 trains on
    the published objective."""
    solver: sde.SolverName = "direct"
    """Solver of the SDE: our own loop with a hand-derived backward (`direct`), or torchsde."""

    @property
    def kept(self) -> float:
        """Factor by which the longest step multiplies X: 1 - dt, with dt in units of `time_unit`."""
        return 1.0 - (1.0 if self.max_step is None else self.step / self.unit) / self.substeps

    @model_validator(mode="after")
    def _stable(self) -> Self:
        if self.max_step is not None and self.time_unit is not None and self.max_step > self.time_unit:
            raise ValueError(
                f"max_step={self.max_step} is longer than time_unit={self.time_unit}, and would overshoot; lower it"
            )
        if not 0 < self.diffusion[0] < self.diffusion[1]:
            raise ValueError(f"diffusion={self.diffusion} must be a range of positive numbers, the smaller first")
        return self


class Latent(NamedTuple):
    """S paths of X at the frames of a batch."""

    x: Tensor
    """[S, B, T, Z] values of the paths."""
    h: Tensor
    """[B, T, H] forward state just before each frame."""
    past: Tensor
    """[B, T, C] other inputs of the decoder from the past."""
    kl: Tensor
    """[S, B] sum over steps of 1/2 |u|^2, where u = R^-1 (H_Q - H_G) sqrt(dt); 0 for the prior's own paths, and in
    the steps after the last observation."""
    martingale: Tensor
    """[S, B] sum over steps of u epsilon: log dP/dQ of a path is -(kl + martingale)."""


class VsdnSde(StateSpace):
    reads_entries = True

    def __init__(self, config: VsdnSdeConfig, likelihood: LikelihoodName, marginal: Marginal) -> None:
        super().__init__()
        c = self.config = config
        self.posterior = (0, 1) if c.name == "vsdn_sde_res" else (1,)
        self.gru_ode = GruOde(marginal, c.hidden, 2, c.step, c.unit, gain_shape=c.gain_shape, dropout=c.dropout)
        widths = Widths(marginal, c.gain_shape)
        future = c.hidden + widths.frame * c.see_next + widths.gap * c.see_gaps
        self.drifts = Drifts(c.hidden, future, c.latent, c.width, c.depth)
        self.x0 = nn.Parameter(torch.zeros(c.latent))
        self.decoder = Decoder(c.latent + c.hidden, likelihood, marginal, c)

    def planner(self) -> Planner | None:
        return self.gru_ode.planner(self.multiple(), keeping(self.config.held_out_fraction))

    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the loss [B] with beta = `kl_weight`, and the terms of the ELBO.

        If nothing is held out, the terms are those of `density`."""
        c, events, kept = self.config, Events.of(batch), without_held_out(batch, self.config.held_out_fraction)
        equation, h = self._equation(kept, Events.of(kept), self.posterior)
        latent = self._paths(equation, h, kept, c.samples)
        log_likelihood = self._sum_of(self.decoder.log_prob, latent, events).mean(0)
        terms = Terms(log_likelihood, latent.kl.mean(0), events.valid.sum(1))
        explained = log_likelihood
        if c.held_out_fraction > 0:
            withheld, count, total = held_out(events, kept)
            score = self._sum_of(partial(self.decoder.beta_log_prob, beta=c.held_out_beta), latent, withheld).mean(0)
            explained = torch.where(count > 0, score * total / count.clamp_min(1), explained)
        loss = kl_weight * torch.maximum(terms.kl, c.free_nats * terms.frames) - explained
        if c.prior_fraction > 0:
            of_prior = self._paths(equation.of_prior(), h, kept, c.samples)
            predicted = self._sum_of(self.decoder.log_prob, of_prior, events).mean(0)
            loss = torch.lerp(loss, -predicted, c.prior_fraction)
        return Objective(loss, terms)

    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        events = Events.of(batch)
        latent = self._latent(batch, self.posterior, samples)
        log_likelihood = self._sum_of(self.decoder.log_prob, latent, events)
        weighted = (log_likelihood - latent.kl - latent.martingale).logsumexp(0) - math.log(samples)
        return Terms(log_likelihood.mean(0), latent.kl.mean(0), events.valid.sum(1)), weighted

    @torch.no_grad()
    def filter(self, batch: Batch, particles: int, carried: FilterState | None = None) -> Filtered:
        (B, T), S, (exact, double) = batch.times.shape, particles, self._exact(batch)
        equation, h = exact._equation(double, Events.of(double), PRIOR)
        frames = exact._frames(double, equation.grid, S)
        x, log_weights = h.new_zeros(B * T, S, len(self.x0)), h.new_full((B * T, S), -math.log(S))
        row, by_step = torch.arange(B, device=h.device), frames.step.argsort(stable=True)
        for stretch in exact._stretches(double, equation, h, S, carried):
            here = by_step[stretch.frames]
            x[here] = stretch.paths.read(frames.take(here), stretch.steps.start)
            log_weights[here] = stretch.before.log_weights[frames.row[here]]
        x, log_weights, h = (y.to(batch.values) for y in (x.view(B, T, S, -1), log_weights.view(B, T, S), h))
        predictive = self.decoder.predictive(
            lambda s: torch.cat([x[:, :, s] if isinstance(s, int) else x[row, :, s], h], -1),
            self.decoder.past(batch), S, log_weights.permute(2, 0, 1),
        )  # fmt: skip
        log_evidence, effective = (y.to(h) for y in (stretch.after.log_evidence, stretch.after.effective))
        return Filtered(predictive, log_evidence, effective, FilterState(stretch.steps.start, stretch.before))

    @torch.no_grad()
    def log_evidence(self, batch: Batch, particles: int) -> Tensor:
        exact, double = self._exact(batch)
        equation, h = exact._equation(double, Events.of(double), self.posterior)
        for stretch in exact._stretches(double, equation, h, particles):
            found = stretch.after.log_evidence
        return found.to(batch.values)

    def rollout(self, batch: Batch, samples: int) -> Predictive:
        return self._predictive(self._latent(batch, PRIOR, samples))

    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        return self._predictive(self._latent(batch, self.posterior, samples))

    @once
    def _exact(self, batch: Batch) -> tuple["VsdnSde", Batch]:
        """Return the model and the batch in double precision, see `particle_filter`."""
        return copy.deepcopy(self).double(), batch.double()

    @once
    def _latent(self, batch: Batch, driver: tuple[int, ...], samples: int) -> Latent:
        """Draw paths of the SDE with the drift given by `driver`, given the batch's observations."""
        return self._paths(*self._equation(batch, Events.of(batch), driver), batch, samples)

    def _paths(self, equation: sde.Equation, h: Tensor, batch: Batch, samples: int) -> Latent:
        (B, T), S = batch.times.shape, samples
        noise = self._noise(batch.seed, equation, S)
        paths = equation.solve(self.x0.to(h.dtype).expand(S, B, -1), noise)
        kl, martingale = equation.divergence(paths, noise)
        x = paths.read(self._frames(batch, equation.grid, S)).unflatten(0, (B, T)).permute(2, 0, 1, 3)
        return Latent(x, h, self.decoder.past(batch), kl, martingale)

    def _stretches(
        self, batch: Batch, equation: sde.Equation, h: Tensor, particles: int, carried: FilterState | None = None
    ) -> Iterator[Stretch]:
        """Yield the filter's stretches, from one observation of any sequence to the next; `equation` moves
        particles."""
        S, events = particles, Events.of(batch)
        B, K = events.frame.shape
        noise, uniform = self._noise(batch.seed, equation, S), uniforms(batch.seed, K)
        known = events.take(h), events.take(self.decoder.past(batch)), events.values
        row = torch.arange(B, device=h.device)
        first, cloud = carried or FilterState(0, Cloud.at(self.x0.expand(S, B, -1)))
        c, host = self.config, batch.of_host()
        grid, clock = grids_of(host, 1, c.step, c.unit).steps, clock_of(host, 0, c.unit)
        for steps, frames in stretches_of(grid, clock, c.substeps, first, len(equation.pre)):
            paths = equation.solve(cloud.x, noise[steps], steps)
            event = equation.grid.event[:, steps.stop - 1]
            number = event.clamp_max(K - 1)
            h_n, past, y = (z[row, number].expand(S, -1, -1) for z in known)
            x, (kl, martingale) = paths.states[-1], equation.divergence(paths, noise[steps], steps)
            observed = None if events.observed is None else events.observed[row, number].expand(S, -1, -1)
            log_likelihood = self.decoder.log_prob(torch.cat([x, h_n], -1), past, y, observed)
            after = cloud.moved(x, -kl - martingale).observe(log_likelihood, event < K, uniform[row, number])
            yield Stretch(steps, frames, paths, cloud, after)
            cloud = after

    def _equation(self, batch: Batch, events: Events, driver: tuple[int, ...]) -> tuple[sde.Equation, Tensor]:
        """Return the SDE with the drift given by `driver`, and the forward state [B, T, H] just before each frame."""
        c = self.config
        trajectory: Trajectory = self.gru_ode(batch, events)
        start, future = trajectory.steps()
        following, known, gap = _next_at_steps(events, trajectory.rows(0))
        if c.see_next:
            future = torch.cat([future, self.decoder.neighbour(following, known)], -1)
        if c.see_gaps:
            future = torch.cat([future, gap.log1p().to(future)], -1)
        pre, weights = self.drifts(start, None if driver == PRIOR else future)
        grid = timegrid.refine(trajectory.rows(0), c.substeps)
        shape = Shape(c.bound, *c.diffusion, driver)
        last = torch.where(events.valid, grid.stop, -1).amax(1)
        informed = torch.arange(grid.dt.shape[1], device=last.device)[:, None] <= last
        equation = sde.Equation(pre.repeat_interleave(c.substeps, 0), weights, grid, shape, c.solver, informed)
        return equation, trajectory.at(0, batch, after=False)

    def _noise(self, seed: Tensor, equation: sde.Equation, samples: int) -> Tensor:
        """Draw the noise [M, S, B, Z] of the steps of S paths per sequence."""
        M = len(equation.pre)
        return antithetic_normal(seed, M, self.config.latent, samples, uses=2).permute(2, 0, 1, 3).to(equation.pre)

    def _frames(self, batch: Batch, grid: TimeGrid, samples: int) -> sde.Frames:
        """Return all B * T frames of the batch, as times at which S paths are read."""
        B, T = batch.times.shape
        step, fraction = timegrid.locate(grid, clock_of(batch, 0, self.config.unit))
        noise = antithetic_normal(batch.seed, T, self.config.latent, samples, uses=2, use=1)
        row = torch.arange(B, device=step.device)[:, None].expand(B, T)
        fraction, dt = (x[..., None, None].to(batch.values) for x in (fraction, grid.dt.gather(1, step)))
        fields = row, step, fraction, dt, noise.permute(1, 2, 0, 3).to(batch.values)
        return sde.Frames(*(field.flatten(0, 1) for field in fields))

    def _sum_of(self, score: Callable[..., Tensor], latent: Latent, events: Events) -> Tensor:
        """Sum a decoder's score over the events of each sequence: [S, B]."""
        h, past = events.take(latent.h), events.take(latent.past)
        each = [score(torch.cat([events.take(x), h], -1), past, events.values, events.observed) for x in latent.x]
        return torch.stack([per_sequence(x, events.valid) for x in each])

    def _predictive(self, latent: Latent) -> Predictive:
        """Return P(Y_t) as a mixture of all paths with equal weights."""
        return self.decoder.predictive(lambda s: torch.cat([latent.x[s], latent.h], -1), latent.past, len(latent.x))


def _next_at_steps(events: Events, grid: TimeGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next observation at or after the end of each step: its frame [M, B, D], a mask and the time until it.

    Without one the frame is 0, and the time lasts until the end of the sequence. In a table each channel has its own
    next observation, with a mask and a time [M, B, D] each. Otherwise both are [M, B, 1]."""
    K, M = events.valid.shape[1], grid.dt.shape[1]
    stop = torch.where(events.valid, grid.stop, M)
    at = torch.searchsorted(stop, torch.arange(M, device=stop.device).expand(len(stop), M).contiguous())
    if events.observed is not None:
        return _next_of_channels(events, events.observed, grid, at)
    near = at.clamp_max(K - 1)
    frames = rows_at(events.values, near + first_rows(len(near), K, near.device))
    valid = (at < K) & events.valid.gather(1, near)
    clock = torch.where(valid, grid.end.gather(1, stop.gather(1, near).clamp_max(M - 1)), grid.end[:, -1:])
    known, gap = valid[..., None], (clock - grid.end)[..., None]
    return torch.where(known, frames, 0.0).transpose(0, 1), known.transpose(0, 1), gap.transpose(0, 1)


def _next_of_channels(events: Events, observed: Tensor, grid: TimeGrid, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of `_next_at_steps` by channel, all [M, B, D]; `at` [B, M] is the next event of a step."""
    K, D = observed.shape[1:]
    number = torch.where(observed, torch.arange(K, device=observed.device)[:, None], K)
    ahead = torch.cat([number.flip(1).cummin(1).values.flip(1), torch.full_like(number[:, :1], K)], 1)
    event = ahead.gather(1, at.clamp_max(K)[..., None].expand(-1, -1, D))  # [B, M, D]
    known = event < K
    values = torch.where(known, events.values.gather(1, event.clamp_max(K - 1)), 0.0)
    ends = grid.end.gather(1, grid.stop)[..., None].expand(-1, -1, D).gather(1, event.clamp_max(K - 1))
    gap = torch.where(known, ends, grid.end[:, -1:, None]) - grid.end[..., None]
    return values.transpose(0, 1), known.transpose(0, 1), gap.transpose(0, 1)
