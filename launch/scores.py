"""The evaluation protocol: density, prediction, interpolation and forecast, each a pure function of (model, batch).

Everything is summed over batches and ranks first and divided once. The same functions score a model during training
(validation) and at the end (test), and the baseline that copies the last observed frame.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from launch.distributed import all_sum
from models.base import Forecaster, LatentDynamics, last_observed
from models.batch import Batch
from models.metrics import Estimate, Sums, accuracy, rmse

Sheet = dict[str, dict[str, dict[str, Sums]]]
"""task -> rate in percent, or horizon in frames -> metric -> sums"""

Table = dict[str, dict[str, dict[str, Estimate]]]
"""The same, divided."""

Score = Callable[[nn.Module, Batch, str], Sheet]
"""Of a batch that was observed at the named rate."""


class Scoring(NamedTuple):
    """What is scored on one data set, and how."""

    binary: bool
    """Whether frames are sets of things that are there or not, as in a piano roll."""
    length: int
    """Frames of the longest sequence."""
    samples: int
    """Latent draws a sequence."""
    horizons: tuple[int, ...]
    """Of a forecast, frames; the whole sequence is always one of them."""

    def density(self, module: nn.Module, batch: Batch, rate: str) -> Sheet:
        """Negative bounds per observed frame (binary data) or per observed dimension (others), nats."""
        terms, weighted = cast(LatentDynamics | Forecaster, module).density(batch, self.samples)
        dims, unit = (1, "frame") if self.binary else (batch.values.shape[2], "dimension")
        per = {"nll": terms.kl - terms.log_likelihood, "nll_importance_weighted": -weighted, "kl": terms.kl}
        sums = {f"{name}_nats_per_{unit}": Sums.of(x, terms.frames * dims, batch.weight > 0) for name, x in per.items()}
        return {"density": {rate: sums}}

    def model(self, module: nn.Module, batch: Batch, rate: str) -> Sheet:
        """All tasks that the model is for."""
        if hasattr(module, "forecast"):
            return {**self.density(module, batch, rate), **self.forecast(module, batch, rate)}
        dynamics = cast(LatentDynamics, module)
        predicted, interpolated = dynamics.predict(batch, self.samples), dynamics.interpolate(batch, self.samples)
        return {**self.density(module, batch, rate), **self._tasks(predicted, interpolated, batch, rate)}

    def forecast(self, module: nn.Module, batch: Batch, rate: str) -> Sheet:
        """MSE after the frames that the model has seen: of the mean of the draws, and of the posterior mean's path."""
        forecaster = cast(Forecaster, module)
        forecast = forecaster.forecast(batch, self.samples)
        return self._forecast({"mse": forecast.mean, "mse_of_mean_path": forecast.path}, batch, forecaster.given)

    def persistence(self, module: nn.Module, batch: Batch, rate: str) -> Sheet:
        """The last observed frame as the answer to every question that the model is asked; it has no density."""
        if hasattr(module, "forecast"):
            given = cast(Forecaster, module).given
            return self._forecast({"mse": held(batch, given)}, batch, given)
        last = last_observed(batch)
        return self._tasks(last, last, batch, rate)

    def _tasks(self, predicted: Tensor, interpolated: Tensor, batch: Batch, rate: str) -> Sheet:
        # The first observed frame has no past to be predicted from.
        again = batch.observed & (batch.observed.cumsum(1) > 1)
        return {
            "prediction": {rate: self._points(predicted, batch, again)},
            "interpolation": {rate: self._points(interpolated, batch, batch.present & ~batch.observed)},
        }

    def _points(self, mean: Tensor, batch: Batch, scored: Tensor) -> dict[str, Sums]:
        if self.binary:
            name, x = "accuracy_percent", 100.0 * accuracy(mean, batch.values, scored)
        else:
            name, x = "rmse", rmse(mean, batch.values, scored)
        return {name: Sums.of(x, scored.any(1).to(x), batch.weight > 0)}

    def _forecast(self, means: dict[str, Tensor], batch: Batch, given: int) -> Sheet:
        whole = self.length - given
        sheet: dict[str, dict[str, Sums]] = {}
        for horizon in sorted({h for h in self.horizons if h < whole} | {whole}):
            frames = slice(given, given + horizon)
            scored = batch.present[:, frames]
            sheet[str(horizon)] = {
                name: Sums.of(
                    ((mean - batch.values)[:, frames].square().mean(2) * scored).sum(1), scored.sum(1), batch.weight > 0
                )
                for name, mean in means.items()
            }
        return {"forecast": sheet}


def held(batch: Batch, given: int) -> Tensor:
    """Persistence as a forecast: the last that was observed of the `given` first frames, [B, T, D]."""
    shown = batch.observed.clone()
    shown[:, given:] = False
    return last_observed(batch._replace(observed=shown))


def total(score: Score, module: nn.Module, batches: Iterable[Batch], rate: str, device: torch.device) -> Table:
    """Sum `score` over the batches of this rank and over ranks. Every rank has as many batches, so that the
    reductions meet."""
    sums: Sheet = {}
    with torch.inference_mode():
        for batch in batches:
            for task, columns in score(module, batch.to(device), rate).items():
                for column, metrics in columns.items():
                    known = sums.setdefault(task, {}).setdefault(column, {})
                    for name, new in metrics.items():
                        known[name] = known[name] + new if name in known else new
    return {
        task: {
            column: {name: Sums(all_sum(x.data)).estimate() for name, x in metrics.items()}
            for column, metrics in columns.items()
        }
        for task, columns in sums.items()
    }
