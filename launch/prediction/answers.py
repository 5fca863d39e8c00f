"""A model's predictions of each frame of a batch, as arrays per sequence: means, deviations and quantiles."""

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor

from driftwork.errors import DriftworkError
from launch.scoring.draws import Draws
from models.base import Forecaster, LatentDynamics, Model, Smoother
from models.batch import Batch
from models.parts.likelihoods import WithFrame
from models.predictive import Predictive

Task = Literal["interpolation", "prediction", "forecast"]


def distinct(levels: tuple[float, ...]) -> tuple[float, ...]:
    """Return the levels of quantiles. Raises ValueError if two have the same column."""
    names = [_column(level) for level in levels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two levels have the column {twice}; remove one of them")
    return levels


def _column(level: float) -> str:
    return f"quantile_{level:g}"


Quantiles = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], AfterValidator(distinct)]
"""Levels of quantiles, each with a column of its own."""


class Frames(NamedTuple):
    """The T frames of one sequence, with D channels."""

    key: str
    times: NDArray[np.float64]
    """[T] times, in seconds from the first frame."""
    truth: NDArray[np.float32]
    """[T, D] true values, in units of the data; NaN where the data have no value."""
    observed: NDArray[np.bool_]
    """[T, D] whether the model observed the value."""
    answers: dict[str, NDArray[np.float32]]
    """Predictions [T, D] by the name of their column."""


class Answerer(NamedTuple):
    """A model and its task for every frame."""

    model: Model
    task: Task
    draws: Draws
    binary: bool
    """Whether values are 0 or 1, and predictions are probabilities."""
    bernoulli: bool
    """Whether values have a Bernoulli likelihood, as binary frames and grey levels do. No deviation is then
    predicted."""
    quantiles: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the predicted columns."""
        if self.bernoulli:
            return ("probability",) if self.binary else ("mean",)
        return ("mean", "deviation", *map(_column, self.quantiles))

    @torch.inference_mode()
    def frames(self, batch: Batch) -> Iterator[Frames]:
        """Yield the sequences of a batch, without the padding at their ends and without padding sequences."""
        batch = self._as_given(batch.to(next(self.model.parameters()).device))
        answers = dict(zip(self.columns, self._answers(self._predictive(batch)), strict=True))
        for b, key in enumerate(batch.keys):
            if batch.weight[b] > 0:
                T = 1 + int((batch.times[b].diff() > 0).sum())  # padding repeats the last time
                truth = torch.where(batch.entries_present[b, :T], batch.values[b, :T], torch.nan)
                yield Frames(
                    key, batch.times[b, :T].cpu().numpy(), truth.float().cpu().numpy(),
                    batch.entries_observed[b, :T].cpu().numpy(),
                    {name: answer[b, :T].float().cpu().numpy() for name, answer in answers.items()},
                )  # fmt: skip

    def _as_given(self, batch: Batch) -> Batch:
        """Return the batch with the frames given to the model as observed: for a forecaster, its first frames."""
        if not isinstance(self.model, Forecaster):
            return batch
        first = torch.arange(batch.times.shape[1], device=batch.times.device) < self.model.given
        return batch.changed(observed=batch.present & (first[:, None] if batch.entries else first))

    def _predictive(self, batch: Batch) -> Predictive:
        if self.task == "forecast":
            return self.draws.forecast(self.model, batch).predictive
        if self.task == "prediction":
            assert isinstance(self.model, LatentDynamics), "the model does not predict"
            return self.draws.predictive(self.model, batch)
        assert isinstance(self.model, LatentDynamics | Smoother), "the model does not interpolate"
        return self.model.interpolate(batch, self.draws.samples)

    def _answers(self, predictive: Predictive) -> list[Tensor]:
        if self.bernoulli:
            return [predictive.mean]
        if not isinstance(predictive.likelihood, WithFrame):
            raise DriftworkError(
                "the model's likelihood has no method frame, so its answers have no deviation; add the method as in "
                "docs/extending.md"
            )
        found = [predictive.mean, predictive.deviation]
        if self.quantiles:
            mixture = predictive.mixture()
            found += [mixture.quantile(level) for level in self.quantiles]
        return found


def tasks(model: Model, forecasts: bool) -> tuple[Task, ...]:
    """Return the tasks that a model has for every frame; the first is the default.

    Args:
        forecasts: whether the run's evaluation observes a beginning, and forecasts the rest.
    """
    if isinstance(model, Forecaster) or forecasts:
        return ("forecast",)
    return ("interpolation",) if isinstance(model, Smoother) else ("interpolation", "prediction")
