"""Interfaces of models of irregularly observed sequences."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.batch import Batch, Planner, moved
from models.batch import last_observed as last_observed  # a model of one's own may import these four from here
from models.batch import next_observed as next_observed
from models.batch import time_since as time_since
from models.batch import time_until as time_until
from models.particle_filter import FilterState
from models.predictive import Predictive

BLOCK = 16
"""On an accelerator, the numbers of steps and events of a batch are padded to multiples of this number."""


class Terms(NamedTuple):
    """Terms of the ELBO, a lower bound on log P(observed frames), of each sequence: sums over observed frames, in
    nats."""

    log_likelihood: Tensor
    """[B] expected log-likelihood E_Q log P(Y_n | X_n, past)."""
    kl: Tensor
    """[B] divergence KL(Q || P); 0 for a model without a latent."""
    frames: Tensor
    """[B] number of scored frames."""


class Objective(NamedTuple):
    """The training loss of a batch, and the quantities reported beside it."""

    loss: Tensor
    """[B] loss that training minimises, in nats per sequence."""
    terms: Terms
    evaluations: int | None = None
    """Number of evaluations of the vector field per trajectory; None for a model whose solver does not count them."""

    def detached(self) -> "Objective":
        """Return the same numbers detached from the autograd graph."""
        return Objective(self.loss.detach(), Terms(*(x.detach() for x in self.terms)), self.evaluations)

    @classmethod
    def joined(cls, parts: "Sequence[Objective]") -> "Objective":
        """Join the objectives of the parts of a batch, in order."""
        loss = torch.cat([part.loss for part in parts])
        terms = Terms(*(torch.cat(x) for x in zip(*(part.terms for part in parts), strict=True)))
        evaluations = [part.evaluations for part in parts if part.evaluations is not None]
        return cls(loss, terms, max(evaluations, default=None))


class Forecast(NamedTuple):
    """Predictive distribution of every frame given the first few."""

    predictive: Predictive
    """Predictive distribution, a mixture over draws from the posterior."""
    path: Tensor | None = None
    """[B, T, D] the single path of the posterior's mean; None for a model without a posterior over paths."""

    @property
    def mean(self) -> Tensor:
        """[B, T, D] mean of the draws."""
        return self.predictive.mean


class TrainableModel(nn.Module, ABC):
    """Interface of every model that can be trained."""

    has_latent = True
    """Whether the model has a latent variable, and with it a KL and an ELBO."""
    reads_entries = False
    """Whether the model accepts masks of entries, as tables have, besides masks of whole frames."""

    @abstractmethod
    def forward(self, batch: Batch, kl_weight: float) -> Objective:
        """Return the training objective. The method is named `forward` because DeepSpeed wraps no other method."""

    def planner(self) -> Planner | None:
        """Return a function that computes the model's grids when a batch is made; None for a model without grids."""
        return None

    def grids(self, batch: Batch) -> Any:
        """Return the grids of the batch's plan. Without a plan they are computed now, and the host waits for the
        device."""
        if batch.plan is not None:
            batch.plan.check(batch)
            return batch.plan.grids
        planner = self.planner()
        assert planner is not None, "the model has no grids"
        return moved(planner(batch.to(torch.device("cpu"))), batch.times.device)

    def on_device(self, batch: Batch) -> Batch:
        """Move a batch of the host, with its plan, to the model's device."""
        return batch.planned(self.planner()).to(next(self.parameters()).device)

    def multiple(self) -> int:
        """Return the number to a multiple of which a plan pads its lengths.

        The number is 1 on a CPU, so that no padding is computed. On an accelerator it is larger: batches then share few
        shapes, for which buffers, kernels and graphs are kept."""
        return 1 if next(self.parameters()).device.type == "cpu" else BLOCK


class LatentDynamics(TrainableModel):
    """A model that predicts each frame from the past and interpolates between observed frames."""

    @abstractmethod
    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        """Return the terms of the ELBO with beta = 1, and the IWAE bound [B] in nats (Burda et al., 2016)."""

    @abstractmethod
    def predict(self, batch: Batch, samples: int) -> Predictive:
        """Return P(Y_t | observations before t), from the generative model alone."""

    @abstractmethod
    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        """Return P(Y_t | all observations), by draws from the posterior; at an observed frame, its reconstruction."""


class Filtered(NamedTuple):
    """Result of a particle filter for a batch."""

    predictive: Predictive
    """P(Y_t | observations before t)."""
    log_evidence: Tensor
    """[B] estimate of log P(observed frames), in nats; its exponential is unbiased."""
    effective: Tensor
    """[B] effective sample size, summed over the observed frames."""
    carried: FilterState
    """State from which a filter of further observations continues, see `FilterState`."""


class StateSpace(LatentDynamics):
    """A model whose latent is a Markov process.

    Its prediction needs a filter: the distribution of the latent at a time depends on the likelihoods of the frames
    before."""

    @abstractmethod
    def filter(self, batch: Batch, particles: int, carried: FilterState | None = None) -> Filtered:
        """Run a particle filter, without gradients.

        Args:
            particles: number of particles per sequence.
            carried: state of an earlier filter of the same rows with fewer observations, to continue from. All rows
                must share their times. The predictive then covers only frames after the earlier observations.
        """

    @abstractmethod
    def log_evidence(self, batch: Batch, particles: int) -> Tensor:
        """Estimate log P(observed frames) [B], in nats, by a filter that proposes particles from the posterior.

        The exponential of the estimate is unbiased, like that of `filter`, and has less variance. No gradients are
        kept."""

    @abstractmethod
    def rollout(self, batch: Batch, samples: int) -> Predictive:
        """Return P(Y_t | observations before t) by draws of the latent without likelihood weights, as published."""

    def predict(self, batch: Batch, samples: int) -> Predictive:
        return self.filter(batch, samples).predictive


class Smoother(TrainableModel):
    """A model of each frame given all others, past and future.

    It interpolates, but has neither predictions nor a bound on the likelihood."""

    @abstractmethod
    def pseudo_likelihood(self, batch: Batch) -> Terms:
        """Return the pseudo-likelihood sum_n log P(Y_n | all observations but Y_n)."""

    @abstractmethod
    def interpolate(self, batch: Batch, samples: int) -> Predictive:
        """Return P(Y_t | all observations but Y_t)."""


class Forecaster(TrainableModel):
    """A model that forecasts a whole sequence from its first frames."""

    given: int
    """Number of frames at the beginning that a forecast is made from."""

    @abstractmethod
    def density(self, batch: Batch, samples: int) -> tuple[Terms, Tensor]:
        """Return the terms of the ELBO and the IWAE bound [B], like `LatentDynamics.density`."""

    @abstractmethod
    def forecast(self, batch: Batch, draws: int) -> Forecast:
        """Forecast the frames at all of the batch's times from the first `given` frames."""

    @abstractmethod
    def draws(self, batch: Batch, numbers: range, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the draws of a forecast with these `numbers`: latent states [S, B, T, Z] and E[Y_t | state],
        [S, B, T, D].

        Times are the batch's unless `times` [B, T] are given, on the host."""

    @abstractmethod
    def prior_draws(self, times: Tensor, seed: Tensor, numbers: range) -> tuple[Tensor, Tensor]:
        """Return draws from the prior, without any observation, at `times` [B, T] on the host for seeds [B], in the
        shapes of `draws`."""


Model = LatentDynamics | Smoother | Forecaster
"""The three kinds of models. `isinstance` on the kind decides how a model is trained, scored and evaluated."""


def per_sequence(values: Tensor, valid: Tensor) -> Tensor:
    """Sum values [B, K] over the valid events: [B]."""
    return torch.where(valid, values, 0.0).sum(1)
