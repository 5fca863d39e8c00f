"""What every model of irregularly observed sequences can be asked."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.batch import Batch
from models.particle_filter import Carried
from models.predictive import Predictive


class Terms(NamedTuple):
    """Terms of the bound on log P(observed frames), per sequence, in nats, summed over its observed frames."""

    log_likelihood: Tensor
    """[B] E_Q log P(Y_n | X_n, past)."""
    kl: Tensor
    """[B] KL(Q || P); 0 for a model without a latent."""
    frames: Tensor
    """[B] how many frames were scored."""


class Objective(NamedTuple):
    loss: Tensor
    """[B] nats per sequence, what training minimises."""
    terms: Terms
    evaluations: int | None = None
    """Of the field that a solver took a trajectory through; None where no solver counts."""


class Forecast(NamedTuple):
    """What a model believes of every frame, having seen the first few."""

    predictive: Predictive
    """Of draws from the posterior."""
    path: Tensor | None = None
    """[B, T, D] the single path of the posterior's mean; None of a model whose posterior is not one of paths."""

    @property
    def mean(self) -> Tensor:
        """[B, T, D] mean of the draws."""
        return self.predictive.mean


class Trained(nn.Module, ABC):
    """What training asks of every model."""

    @abstractmethod
    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """The objective, because DeepSpeed wraps nothing but a module's forward."""


class LatentDynamics(Trained):
    """A model of each frame given the past, and of frames between those observed."""

    @abstractmethod
    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        """The bound with beta = 1, and the importance-weighted bound [B] (Burda et al., 2016) on the same."""

    @abstractmethod
    def predict(self, batch: Batch, samples: int) -> Predictive:
        """P(Y_t | observations before t), from the generative model alone."""

    @abstractmethod
    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        """P(Y_t | all observations), by draws from the posterior; of an observed frame it is the reconstruction."""


class Filtered(NamedTuple):
    """What a particle filter finds out about a batch."""

    predictive: Predictive
    """P(Y_t | observations before t)."""
    log_evidence: Tensor
    """[B] estimate of log P(observed frames), nats; its exponential is unbiased."""
    effective: Tensor
    """[B] effective sample size, summed over the observed frames."""
    carried: Carried
    """Where the filter stood after the last observation."""


class StateSpace(LatentDynamics):
    """A model whose latent has a memory of its own: what is known of it at a time follows from the likelihoods of the
    frames before, by a filter."""

    @abstractmethod
    def filter(self, batch: Batch, particles: int, carried: Carried | None = None) -> Filtered:
        """Filter with so many particles a sequence, without gradients.

        Args:
            carried: of a filter of the same rows, which share their times, and fewer observations: go on from there.
                The predictive is then of frames after these observations only.
        """

    @abstractmethod
    def log_evidence(self, batch: Batch, particles: int) -> Tensor:
        """Estimate log P(observed frames) [B], nats, by a filter whose particles the posterior moves: its exponential
        is unbiased too, and varies less. Without gradients."""

    @abstractmethod
    def rollout(self, batch: Batch, samples: int) -> Predictive:
        """P(Y_t | observations before t) by draws of the latent that no likelihood weighs, as published."""

    def predict(self, batch: Batch, samples: int) -> Predictive:
        return self.filter(batch, samples).predictive


class Smoother(Trained):
    """A model of each frame given all others, past and future: it interpolates, and neither predicts nor bounds the
    likelihood."""

    @abstractmethod
    def pseudo_likelihood(self, batch: Batch) -> Terms:
        """sum_n log P(Y_n | all observations but Y_n)."""

    @abstractmethod
    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        """P(Y_t | all observations but Y_t)."""


class Forecaster(Trained):
    """A model that forecasts a whole sequence from its first frames."""

    given: int
    """How many first frames a forecast sees."""

    @abstractmethod
    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        """As of `LatentDynamics`."""

    @abstractmethod
    def forecast(self, batch: Batch, draws: int) -> Forecast:
        """All frames of the batch's times, from the `given` first ones."""

    @abstractmethod
    def draws(self, batch: Batch, numbers: range, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draws of a forecast, by number: latent states [S, B, T, Z], and E[Y_t | state] [S, B, T, D]; at the batch's
        times, or at others [B, T]."""

    @abstractmethod
    def prior_draws(self, times: Tensor, seed: Tensor, numbers: range) -> tuple[Tensor, Tensor]:
        """The same given nothing, at `times` [B, T], for seeds [B]."""


Model = LatentDynamics | Smoother | Forecaster
"""Of one of three kinds, which is what decides what it is trained, scored and asked for: `isinstance` tells it."""


def per_sequence(values: Tensor, valid: Tensor) -> Tensor:
    """Sum [B, K] over the events that are real: [B]."""
    return torch.where(valid, values, 0.0).sum(1)


def last_observed(batch: Batch) -> Tensor:
    """The most recent frame observed strictly before each time, [B, T, D]; 0 where there is none yet."""
    before, _ = observed_around(batch)
    return frames_at(batch, torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1))


def next_observed(batch: Batch, *, own: bool) -> Tensor:
    """The first frame observed after each time, or at it where `own` is set, [B, T, D]; 0 where there is none."""
    _, after = observed_around(batch)
    return frames_at(batch, after if own else torch.cat([after[:, 1:], torch.full_like(after[:, :1], -1)], 1))


def time_since(batch: Batch, unit: float) -> Tensor:
    """log(1 + x), x being the time since the last frame observed strictly before each, in units of `unit` seconds,
    [B, T, 1]; since the start of the sequence where there is none yet."""
    before, _ = observed_around(batch)
    number = torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1)
    last = torch.where(number >= 0, batch.times.gather(1, number.clamp_min(0)), batch.times[:, :1])
    return ((batch.times - last) / unit).log1p()[..., None].to(batch.values.dtype)


def time_until(batch: Batch, unit: float, *, own: bool) -> Tensor:
    """The same of the first frame observed after each, or at it where `own` is set; until the end of the sequence
    where there is none."""
    _, after = observed_around(batch)
    number = after if own else torch.cat([after[:, 1:], torch.full_like(after[:, :1], -1)], 1)
    following = torch.where(number >= 0, batch.times.gather(1, number.clamp_min(0)), batch.times[:, -1:])
    return ((following - batch.times) / unit).log1p()[..., None].to(batch.values.dtype)


def observed_around(batch: Batch) -> tuple[Tensor, Tensor]:
    """The number of the last frame observed before each time and of the first after it, both its own where it is
    observed, [B, T]; -1 where there is none."""
    T = batch.observed.shape[1]
    at = torch.arange(T, device=batch.observed.device)
    before = torch.where(batch.observed, at, -1).cummax(1).values
    after = torch.where(batch.observed, at, T).flip(1).cummin(1).values.flip(1)
    return before, torch.where(after < T, after, -1)


def frames_at(batch: Batch, number: Tensor) -> Tensor:
    """The frames of these numbers [B, T]: [B, T, D]; 0 where the number is -1."""
    frames = batch.values.gather(1, number.clamp_min(0)[..., None].expand_as(batch.values))
    return torch.where((number >= 0)[..., None], frames, 0.0)
