"""ODE2VAE (Yildiz et al., NeurIPS 2019): a latent position and velocity that follow a Bayesian second-order ODE.

    encoder    q(z_0) = q(s_0 | x_0) q(v_0 | x_0, ..., x_{A-1}),   z = (s, v)
    dynamics   ds/dt = v,  dv/dt = f_W(s, v),  W ~ q(W);  q(z_t) by the trace of the field
    decoder    p(x_t | s_t)
    ELBO       sum_i E log p(x_i | s_i) - KL(q(W) || p(W)) / N - KL(q(z_0) || p(z_0))
    objective  ELBO - sum_{i >= 1} KL(q(z_i) || p(z_i)) - gamma sum_{i >= 1} KL(q(z_i) || q_enc(z_i | x_i, ...))

ELBO and objective are per sequence; p(z) = N(0, I), and N sequences share W. The trajectory is a function of (z_0, W),
so the ELBO bounds the log evidence and is tight at the exact posterior. `density` scores the ELBO. The two sums of the
objective are penalties that lower it further (gamma > 0 is ODE2VAE-KL, section 3.3 of the paper).

The authors' program differs. `objective: published` follows it in four points:

- log q(z_0) is log N(epsilon; 0, I), without the encoder's entropy;
- KL(q(z_0)) is estimated by one draw, like the later KL terms;
- KL(q(W)) has the weight q / (number of weights) per sequence, not 1 / N;
- gamma's KL begins at i = 0, and the last frames, which have no encoding, still count in its first half.

Two details of the program are not followed: its number of weights has one hidden layer too many, which makes the weight
of KL(q(W)) 0.57 times ours at the sizes of mocap, and it leaves out the encoding of the last A frames.

In a table, whose channels are observed separately, x_i are the observed entries of a frame, and both encoders read the
first A frames, their times and which channels are observed. Encoders and decoder also read the static covariates.
"""

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from driftwork.registry import Named
from models.base import Forecast, Forecaster, Objective, Terms, per_sequence
from models.batch import Batch, Planner, moved
from models.parts.bnn import BayesianMlp, Variance
from models.parts.encoders import NetworkKind, decoder, encoder
from models.parts.likelihoods import LikelihoodName, Marginal, Noise, only
from models.parts.networks import Normal, standard_log_prob
from models.parts.noise import keyed_normal
from models.parts.table_likelihoods import with_noise as likelihood_of
from models.predictive import Predictive
from models.solvers import ode
from models.solvers.flow import ActivationName, Weights
from models.solvers.ode import Path, SolverConfig
from models.solvers.timegrid import TimeGrid

_NOISE_OF_Z, _NOISE_OF_W = 0, 1
"""Streams of a sequence's noise; draw n uses 2 n and 2 n + 1."""

_VALUES_AT_ONCE = 2**21
"""Maximum number of forecast values for which states are solved together."""


class Ode2VaeConfig(Named):
    name: Literal["ode2vae", "neural_ode"]
    """Model. `ode2vae` has a second-order vector field; `neural_ode` differs in a first-order one, dz/dt = f_W(z)."""
    latent: int = Field(3, ge=1)
    """Number of components q of the latent position; the velocity has as many."""
    velocity_frames: int = Field(3, ge=1)
    """Number of frames A at the beginning from which the velocity is encoded. A forecast observes no others."""
    networks: NetworkKind = "dense"
    """Kind of encoder and decoder networks: dense, or convolutional for square pictures."""
    encoder_width: int = Field(30, ge=1)
    """Number of units in a hidden layer of the encoder, or of channels of its first convolution."""
    decoder_width: int = Field(30, ge=1)
    """Number of units in a hidden layer of the decoder, or of channels of its last but one convolution."""
    field_width: int = Field(30, ge=1)
    """Number of units in each of the two hidden layers of the vector field f."""
    activation: ActivationName = "tanh"
    """Activation function of the vector field and of dense networks."""
    noise: Noise = "channel"
    """Standard deviation of Gaussian data, in their units: learned for each `channel`, learned for each `frame` as
    published, or a fixed number."""
    variance: Variance = "shared"
    """Variances of q(W), the posterior over weights: one for each weight, one `shared` by all, or `none` for a point
    estimate."""
    init_std: float = Field(0.01, gt=0)
    """Standard deviation of q(W), the posterior over weights, before training, in units of the weights."""
    prior_std: float = Field(1.0, gt=0)
    """Standard deviation of p(W), the prior over weights, in units of the weights."""
    objective: Literal["correct", "published"] = "correct"
    """Training objective. `correct` is the ELBO; `published` follows the authors' program where it departs from the
    ELBO."""
    path_weight: float = Field(1.0, ge=0)
    """Weight of the KL(q(z_i) || p(z_i)) of all later states, i >= 1, in the training loss. 0 trains on the ELBO."""
    gamma: float = Field(0.0, ge=0)
    """Weight of the penalty that ties the trajectory to the encoder (ODE2VAE-KL). 0 leaves the penalty out."""
    time_unit: float | None = Field(1.0, gt=0)
    """Length of one unit of the differential equation's time, in seconds. Null takes the mean time between neighbouring
    frames of the data, and the run's config stores it."""
    solver: SolverConfig = SolverConfig()
    """Solver of the ordinary differential equation."""

    @property
    def unit(self) -> float:
        """Length of one unit of time, in seconds."""
        assert self.time_unit is not None, "RunConfig.for_data sets time_unit before a model is made"
        return self.time_unit


class Ode2Vae(Forecaster):
    """ODE2VAE, or its first-order variant, the latent Neural ODE.

    Raises:
        ValueError: convolutional networks are configured for frames that are not square images.
        DriftworkError: networks or noise do not suit a table.
    """

    reads_entries = True

    def __init__(self, config: Ode2VaeConfig, likelihood: LikelihoodName, marginal: Marginal) -> None:
        super().__init__()
        c, D = config, len(marginal.mean)
        self.config, self.sequences = c, marginal.sequences
        self.static = 0 if marginal.table is None else marginal.table.static
        self.given = c.velocity_frames
        self.likelihood = likelihood_of(likelihood, marginal, c.noise)
        self.encoder = encoder(marginal, c.velocity_frames, c.latent, c.networks, c.encoder_width, c.activation, c.unit)
        self.decoder = decoder(
            D, c.latent + self.static, c.networks, c.decoder_width, self.likelihood.width, c.activation
        )
        outputs = c.latent if c.name == "ode2vae" else 2 * c.latent
        self.weights = BayesianMlp(2 * c.latent, c.field_width, outputs, c.variance, c.init_std, c.prior_std)

    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the loss [B], with all KL terms but gamma's weighted by `kl_weight`, and the terms of the ELBO."""
        c, published = self.config, self.config.objective == "published"
        posterior = self._posterior(batch)
        path = self._draw_path(posterior, self.grids(batch), batch.seed, 0)
        observed, later = batch.frames_observed, batch.frames_observed.clone()
        later[:, 0] = False
        log_likelihood = self._log_likelihood(path.z, batch)
        prior_gap = path.log_q - standard_log_prob(path.z)
        kl_z0, kl_w = posterior.standard_kl(), self.weights.kl()
        terms = Terms(log_likelihood, kl_z0 + kl_w / self.sequences, observed.sum(1))
        if published:
            # The entropy that the authors' log q(z_0) lacks is a constant along the flow.
            missing = posterior.log_std.sum(-1, keepdim=True)
            path = path._replace(log_q=path.log_q + missing)
            kl = prior_gap[:, 0] + missing[:, 0] + kl_w * c.latent / self.weights.count
            prior_gap = prior_gap + missing
        else:
            kl = terms.kl
        loss = kl_weight * (kl + c.path_weight * per_sequence(prior_gap, later)) - log_likelihood
        if c.gamma > 0:
            loss = loss + c.gamma * self._encoder_gap(batch, path, observed if published else later)
        return Objective(loss, terms, path.evaluations)

    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        """Return the terms of the ELBO, and the IWAE bound over z_0. A sequence has the same draw of W in all
        samples."""
        posterior, weights = self._posterior(batch), self.weights.draw(batch.seed, _NOISE_OF_W)
        grid = self.grids(batch)
        log_likelihoods, log_weights = [], []
        for n in range(samples):
            z0, log_q0 = posterior.draw(self._noise_of_z(batch.seed, n))
            path = self._solve(z0, log_q0, weights, grid)
            log_likelihoods.append(self._log_likelihood(path.z, batch))
            log_weights.append(log_likelihoods[-1] + standard_log_prob(z0) - log_q0)
        kl_w = self.weights.kl() / self.sequences
        kl = posterior.standard_kl() + kl_w
        terms = Terms(torch.stack(log_likelihoods).mean(0), kl, batch.frames_observed.sum(1))
        return terms, torch.stack(log_weights).logsumexp(0) - math.log(samples) - kl_w

    def forecast(self, batch: Batch, draws: int) -> Forecast:
        """Forecast the frames at all of the batch's times, given only the observed ones among the first A."""
        posterior, at_once = self._posterior(batch), max(1, _VALUES_AT_ONCE // batch.values.numel())
        parts = (range(n, min(n + at_once, draws)) for n in range(0, draws, at_once))
        grid = self.grids(batch)
        z = torch.cat([self._states(posterior, grid, batch.seed, numbers) for numbers in parts])
        predictive = Predictive(self.likelihood, lambda s: self._decode(z[s], batch.static), draws)
        z0 = posterior.mean
        path = self._solve(z0, torch.zeros_like(z0[:, 0]), self.weights.mean_weights(), grid)
        return Forecast(predictive, self.likelihood.expectation(self._decode(path.z, batch.static)))

    def draws(self, batch: Batch, numbers: range, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw from the posterior given the first A frames: states [S, B, T, 2 q], and E[x_t | s_t] [S, B, T, D].

        Draw n does not depend on which other draws are requested. `times` [B, T] on the host, the first of them 0,
        replace the batch's times."""
        grid = self.grids(batch) if times is None else self._grid_of(times)
        return self._draws(self._posterior(batch), grid, batch.seed, numbers, batch.static)

    def prior_draws(self, times: Tensor, seed: Tensor, numbers: range) -> tuple[Tensor, Tensor]:
        """Draw from z_0 ~ N(0, I) and W ~ q(W), without observations, at `times` [B, T] on the host, the first of them
        0.

        Shapes are those of `draws`. Static covariates of a table are at their means."""
        z0 = self.weights.mean.new_zeros(len(seed), 2 * self.config.latent)
        return self._draws(_standard(z0), self._grid_of(times), seed, numbers, z0.new_zeros(len(seed), self.static))

    def planner(self) -> Planner | None:
        max_step, multiple = self.config.solver.max_step, self.multiple()
        return partial(_grids, unit=self.config.unit, max_step=max_step, multiple=multiple)

    def _grid_of(self, times: Tensor) -> TimeGrid:
        """Return the grids, on the model's device, of requested times [B, T] of the host."""
        grid = ode.grid_of(times / self.config.unit, self.config.solver.max_step, self.multiple())
        moved_grid: TimeGrid = moved(grid, self.weights.mean.device)
        return moved_grid

    def _draws(
        self, start: Normal, grid: TimeGrid, seed: Tensor, numbers: range, static: Tensor
    ) -> tuple[Tensor, Tensor]:
        z = self._states(start, grid, seed, numbers)
        return z, self.likelihood.expectation(self._decode(z, static))

    def _states(self, start: Normal, grid: TimeGrid, seed: Tensor, numbers: range) -> Tensor:
        """Return the states [S, B, T, 2 q] of the draws with these numbers."""
        S, B = len(numbers), len(seed)
        n = torch.arange(numbers.start, numbers.stop, device=seed.device)[:, None].expand(S, B).flatten()
        starts = Normal(*(x.repeat(S, 1) for x in start))
        grids = TimeGrid(*(x.repeat(S, 1) for x in grid))
        return self._draw_path(starts, grids, seed.repeat(S), n).z.unflatten(0, (S, B))

    def _posterior(self, batch: Batch) -> Normal:
        A, T = self.config.velocity_frames, batch.values.shape[1]
        if not batch.entries:
            values, observed = batch.values[:, :A], batch.observed[:, :A]
            if T < A:  # frames that do not exist are not observed
                values, observed = F.pad(values, (0, 0, 0, A - T)), F.pad(observed, (0, A - T))
            posterior: Normal = self.encoder(values, observed)
            return posterior
        at = torch.arange(A, device=batch.times.device).clamp_max(T - 1)  # short series are padded to A frames
        there = (torch.arange(A, device=at.device) < T)[:, None]
        posterior = self.encoder(batch.values[:, at], batch.observed[:, at] & there, batch.times[:, at], batch.static)
        return posterior

    def _noise_of_z(self, seed: Tensor, n: int | Tensor) -> Tensor:
        return keyed_normal(seed, 1, 2 * self.config.latent, 2 * n + _NOISE_OF_Z)[:, 0].to(self.weights.mean)

    def _draw_path(self, posterior: Normal, grid: TimeGrid, seed: Tensor, n: int | Tensor) -> Path:
        z0, log_q0 = posterior.draw(self._noise_of_z(seed, n))
        return self._solve(z0, log_q0, self.weights.draw(seed, 2 * n + _NOISE_OF_W), grid)

    def _solve(self, z0: Tensor, log_q0: Tensor, weights: Weights, grid: TimeGrid) -> Path:
        return ode.solve(z0, log_q0, weights, grid, self.config.solver, self.config.activation)

    def _decode(self, z: Tensor, static: Tensor) -> Tensor:
        """Return the likelihood's parameters [..., B, T, width] for states z [..., B, T, 2 q] and covariates [B, S]."""
        return self._read(z, static[:, None].expand(*z.shape[:-1], -1) if self.static else None)

    def _read(self, z: Tensor, static: Tensor | None) -> Tensor:
        s = z[..., : self.config.latent]
        parameters: Tensor = self.decoder(s if static is None else torch.cat([s, static], -1))
        return parameters

    def _log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the log-likelihood [B] of the observed frames.

        A CPU decodes only these, since a convolutional decoder takes most of a step's time. On an accelerator the host
        would have to wait for their number."""
        frames, observed = batch.frames_observed, batch.observed if batch.entries else None
        if z.device.type != "cpu":
            log_prob = self.likelihood.log_prob(self._decode(z, batch.static), batch.values, *only(observed))
            return per_sequence(log_prob, frames)
        static = batch.static[:, None].expand(*z.shape[:-1], -1)[frames] if self.static else None
        parameters, observed = self._read(z[frames], static), None if observed is None else observed[frames]
        log_prob = self.likelihood.log_prob(parameters, batch.values[frames], *only(observed))
        return log_prob.new_zeros(frames.shape).masked_scatter(frames, log_prob).sum(1)

    def _encoder_gap(self, batch: Batch, path: Path, counted: Tensor) -> Tensor:
        """Return sum_i log q(z_i) - log q_enc(z_i | x_i, ..., x_{i+A-1}) [B] over the frames that have an encoding."""
        A, T = self.config.velocity_frames, batch.values.shape[1]
        published = self.config.objective == "published"
        if T < A:  # no frame has an encoding
            return per_sequence(path.log_q, counted & published)
        encoded, complete = self._encoded(batch), batch.frames_present.unfold(1, A, 1).all(-1)
        log_q_enc = per_sequence(encoded.log_prob(path.z[:, : T - A + 1]), counted[:, : T - A + 1] & complete)
        if published:
            return per_sequence(path.log_q, counted) - log_q_enc
        return per_sequence(path.log_q[:, : T - A + 1], counted[:, : T - A + 1] & complete) - log_q_enc

    def _encoded(self, batch: Batch) -> Normal:
        """Return the encodings [B, T - A + 1, 2 q] of all windows of A frames."""
        A = self.config.velocity_frames
        values, observed = batch.values.unfold(1, A, 1).mT, batch.observed.unfold(1, A, 1)
        if not batch.entries:
            encoded: Normal = self.encoder(values, observed)
            return encoded
        static = batch.static[:, None].expand(-1, values.shape[1], -1)
        encoded = self.encoder(values, observed.mT, batch.times.unfold(1, A, 1), static)
        return encoded


def _grids(batch: Batch, unit: float, max_step: float, multiple: int) -> TimeGrid:
    return ode.grid_of(batch.times / unit, max_step, multiple)


def _standard(like: Tensor) -> Normal:
    zero = torch.zeros_like(like)
    return Normal(zero, zero)
