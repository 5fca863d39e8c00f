"""The evaluation protocol: density, prediction, interpolation and forecast, each a pure function of (model, batch).

Every sequence has its own score; `estimates` combines them. The same functions score a model during training
(validation) and at the end (test), and the trivial baselines.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from launch.runs.config import RunConfig
from launch.scoring import uncertainty
from launch.scoring.baselines import held, nearest, straight
from launch.scoring.draws import Draws
from launch.scoring.entries import Entries, Guess
from launch.scoring.estimates import Scores
from launch.scoring.metrics import ADDED
from launch.scoring.ratio import Ratio
from models.base import Forecaster, LatentDynamics, Model, Smoother, StateSpace, Terms
from models.batch import Batch, last_observed
from models.decisions import Rule, decided
from models.metrics import accuracy, rmse
from models.parts.likelihoods import WithFrame
from models.parts.once import shared
from models.predictive import Predictive
from pipeline.shards.manifest import Manifest

BatchScores = dict[str, dict[str, dict[str, Ratio]]]
"""task -> rate in percent, or horizon in frames -> metric -> scores of a batch"""

SplitScores = dict[str, dict[str, dict[str, Scores]]]
"""Scores of a whole split: task -> rate in percent, or horizon in frames -> metric -> scores"""

Score = Callable[[Model, Batch, str], BatchScores]
"""Function from (model, batch, name of its rate of observation) to scores."""


Answer = Predictive | Tensor
"""A predictive distribution of every frame, or a point prediction [B, T, D]."""


class Scoring(NamedTuple):
    """Settings of scoring for one data set."""

    binary: bool
    """Whether frames are binary, as in a piano roll."""
    bernoulli: bool
    """Whether values have a Bernoulli likelihood: those of binary frames, and greys."""
    length: int
    """Number of frames of the longest sequence."""
    draws: Draws
    horizons: tuple[int, ...]
    """Horizons of forecasts, frames; the whole sequence is always one of them."""
    prefix: int | None = None
    """Number of observed first frames if every model forecasts the rest; None for the other tasks, and where a prefix
    has another length in each sequence. A `Forecaster` always forecasts."""
    forecasts: bool = False
    """Whether every model forecasts the frames after a prefix."""
    table: Entries | None = None
    """Channels of a table, whose scores are counted by entry; None for data whose masks are of whole frames."""

    @classmethod
    def of(cls, config: RunConfig, manifest: Manifest, samples: int) -> "Scoring":
        """Return the settings of a run, with `samples` latent draws per sequence."""
        spec, draws = manifest.spec, Draws.of(config.evaluate)._replace(samples=samples)
        observe, bernoulli = config.observe.evaluate, spec.likelihood == "bernoulli"
        return cls(
            spec.binary, bernoulli, spec.length, draws, config.evaluate.horizons, observe.frames, observe.forecasts,
            Entries.of(manifest),
        )  # fmt: skip

    @property
    def intervals(self) -> bool:
        """Whether calibration is that of intervals of real values, not of probabilities."""
        return not self.bernoulli if self.table is None else not bool(self.table.binary.all())

    def density(self, model: LatentDynamics | Forecaster, batch: Batch, rate: str, whole: bool = False) -> BatchScores:
        """Return the negative ELBO and IWAE bound per observed frame (binary data), entry (tables) or dimension
        (others), in nats, and the KL. For a model without a latent, return the negative log-likelihood alone. With
        `whole`, also the estimate of a filter, which takes longer."""
        terms, weighted = model.density(batch, self.draws.samples)
        per = {"nll": terms.kl - terms.log_likelihood}
        if model.has_latent:
            per["nll_importance_weighted"] = -weighted
        if whole and isinstance(model, StateSpace):
            per["nll_particle_filter"] = -model.log_evidence(batch, self.draws.particles)
        if model.has_latent:
            per["kl"] = terms.kl
        return {"density": {rate: self._nats(per, terms, batch)}}

    def pseudo_likelihood(self, model: Smoother, batch: Batch, rate: str) -> BatchScores:
        """Return a smoother's negative pseudo-likelihood, for validation; it is not comparable with a bound."""
        terms = model.pseudo_likelihood(batch)
        return {"pseudo_likelihood": {rate: self._nats({"pseudo_nll": -terms.log_likelihood}, terms, batch)}}

    def validation(self, model: Model, batch: Batch, rate: str) -> BatchScores:
        """Return the score that selects the best weights: that of the forecast if the model makes one, otherwise its
        ELBO or pseudo-likelihood."""
        if self.forecasting(model):
            return self.forecast(model, batch)
        if isinstance(model, Smoother):
            return self.pseudo_likelihood(model, batch, rate)
        return self.density(model, batch, rate)

    def forecasting(self, model: Model) -> bool:
        """Return whether the model forecasts all frames from the first ones."""
        return self.forecasts or isinstance(model, Forecaster)

    def given(self, model: Model) -> int | None:
        """Return the number of first frames from which the model forecasts the others; None for other tasks, and where
        it differs between sequences."""
        return model.given if isinstance(model, Forecaster) else self.prefix

    def contenders(self, model: Model) -> dict[str, Score]:
        """Return the model and its trivial baselines, which are scored on the same tasks."""
        scores: dict[str, Score] = {"model": self.model, "persistence": self.persistence}
        if self.forecasting(model):
            return scores
        if self.table is not None:
            of_table = {"nearest": self.table.nearest, "linear": self.table.linear}
            return scores | {name: partial(self._guess, guess) for name, guess in of_table.items()}
        return {**scores, "nearest" if self.binary else "linear": self.neighbours}

    def model(self, model: Model, batch: Batch, rate: str) -> BatchScores:
        """Score the model on all of its tasks."""
        if isinstance(model, Forecaster):
            return {**self.density(model, batch, rate), **self.forecast(model, batch, whole=True)}
        if self.forecasts:
            return self.forecast(model, batch, whole=True)
        if isinstance(model, Smoother):
            return self._interpolation(model.interpolate(batch, self.draws.samples), batch, rate)
        with shared():
            return {
                **self.density(model, batch, rate, whole=True),
                **self._prediction(self.draws.predictive(model, batch), batch, rate),
                **self._interpolation(model.interpolate(batch, self.draws.samples), batch, rate),
            }

    def forecast(self, model: Model, batch: Batch, whole: bool = False) -> BatchScores:
        """Return the MSE after the observed frames, for the mean of the draws and for the path of the posterior mean.
        With `whole`, also the scores of the predictive distribution, which take longer."""
        given, forecast = self.given(model), self.draws.forecast(model, batch)
        if self.table is not None:
            later = self.table.later(batch, given, self.horizons, self.length)
            return {"forecast": self.table.forecast(forecast, batch, later, whole)}
        assert given is not None, "the model forecasts"
        means = {"mse": forecast.mean}
        if forecast.path is not None:
            means["mse_of_mean_path"] = forecast.path
        return self._forecast(means, batch, given, forecast.predictive if whole else None)

    def persistence(self, model: Model, batch: Batch, rate: str) -> BatchScores:
        """Score the last observed frame as the prediction in every task of the model; it has no density."""
        given = self.given(model)
        if self.forecasting(model) and self.table is not None:
            later = self.table.later(batch, given, self.horizons, self.length)
            return {"forecast": self.table.score(self.table.held(batch, given), batch, later)}
        if given is not None:
            frames = held(batch, given)
            return self._forecast({"mse": frames}, batch, given, frames)
        last = last_observed(batch) if self.table is None else self.table.persistence(batch)
        predicted = {} if isinstance(model, Smoother) else self._prediction(last, batch, rate)
        return {**predicted, **self._interpolation(last, batch, rate)}

    def neighbours(self, model: Model, batch: Batch, rate: str) -> BatchScores:
        """Score linear interpolation between the observed frames or, for binary data, the nearest observed frame."""
        between = nearest(batch) if self.binary else straight(batch)
        return self._interpolation(between, batch, rate)

    def _guess(self, guess: Guess, model: Model, batch: Batch, rate: str) -> BatchScores:
        return self._interpolation(guess(batch), batch, rate)

    def _prediction(self, answer: Answer, batch: Batch, rate: str) -> BatchScores:
        # The first observed frame has no past to be predicted from.
        if self.table is not None:
            return {"prediction": self.table.score(answer, batch, {rate: self.table.predicted(batch)})}
        again = batch.observed & (batch.observed.cumsum(1) > 1)
        return {"prediction": {rate: self._frames(answer, batch, rate, again)}}

    def _interpolation(self, answer: Answer, batch: Batch, rate: str) -> BatchScores:
        held_out = batch.present & ~batch.observed
        if self.table is not None:
            return {"interpolation": self.table.score(answer, batch, {rate: held_out})}
        return {"interpolation": {rate: self._frames(answer, batch, rate, held_out)}}

    def _nats(self, per: dict[str, Tensor], terms: Terms, batch: Batch) -> dict[str, Ratio]:
        if self.table is not None:
            entries = batch.entries_observed.sum((1, 2))
            return {f"{name}_nats_per_entry": Ratio(x, entries) for name, x in per.items()}
        dims, unit = (1, "frame") if self.binary else (batch.values.shape[2], "dimension")
        return {f"{name}_nats_per_{unit}": Ratio(x, terms.frames * dims) for name, x in per.items()}

    def _frames(self, answer: Answer, batch: Batch, rate: str, scored: Tensor) -> dict[str, Ratio]:
        mean, truth = answer.mean if isinstance(answer, Predictive) else answer, batch.values
        if self.binary:
            rules: dict[str, Rule] = {"accuracy_decided_percent": "expected_score", "accuracy_percent": "0.5"}
            points = {
                name: 100.0 * accuracy(decided(mean, scored, rule), truth, scored) for name, rule in rules.items()
            }
        else:
            points = {"rmse": rmse(mean, truth, scored)}
        ratios = {name: Ratio(x, scored.any(1)) for name, x in points.items()}
        added = {name: score(mean, truth, scored) for name, score in ADDED.items()}
        return ratios | added | self._uncertainty(answer, truth, {rate: scored})[rate]

    def _uncertainty(self, answer: Answer, truth: Tensor, columns: uncertainty.Columns) -> uncertainty.Found:
        if not isinstance(answer, Predictive):
            return uncertainty.of_points(answer, truth, columns, self.bernoulli)
        if self.bernoulli:
            return uncertainty.of_probabilities(answer.mean, truth, columns)
        if not isinstance(
            answer.likelihood, WithFrame
        ):  # a plugin's likelihood, whose mixtures have no closed form here
            return {column: {} for column in columns}
        return uncertainty.of_values(answer, truth, columns)

    def _forecast(self, means: dict[str, Tensor], batch: Batch, given: int, answer: Answer | None) -> BatchScores:
        """Return the squared errors of `means`, and the scores of `answer` as a distribution if it is given."""
        whole = self.length - given
        at = torch.arange(batch.values.shape[1], device=batch.values.device)
        sheet: dict[str, dict[str, Ratio]] = {}
        for horizon in sorted({h for h in self.horizons if h < whole} | {whole}):
            frames = slice(given, given + horizon)
            scored = batch.present[:, frames]
            sheet[str(horizon)] = {
                name: Ratio(((mean - batch.values)[:, frames].square().mean(2) * scored).sum(1), scored.sum(1))
                for name, mean in means.items()
            }
        if answer is not None:
            columns = {h: batch.present & (at >= given) & (at < given + int(h)) for h in sheet}
            found = self._uncertainty(answer, batch.values, columns)
            for name, scores in sheet.items():
                own = {metric: score(means["mse"], batch.values, columns[name]) for metric, score in ADDED.items()}
                scores.update(own | found[name])
        return {"forecast": sheet}
