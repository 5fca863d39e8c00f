"""The evaluation protocol: density, prediction and interpolation, each a pure function of (model, batch) -> sums.

Everything is summed over batches and ranks first and divided once. The same functions score a model during training
(validation) and at the end (test), and the baseline that copies the last observed frame.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor

from launch.distributed import all_sum
from models.base import LatentDynamics, last_observed
from models.batch import Batch
from models.likelihoods import LikelihoodName
from models.metrics import Estimate, Sums, accuracy, rmse

Table = dict[str, dict[str, dict[str, Estimate]]]
"""task -> rate in percent -> metric -> estimate"""

Scores = dict[str, dict[str, Sums]]
"""task -> metric -> sums, at one rate"""


def density(model: LatentDynamics, batch: Batch, likelihood: LikelihoodName, samples: int) -> Scores:
    """Negative bounds per observed frame (bernoulli) or per observed dimension (gaussian), nats."""
    terms, weighted = model.density(batch, samples)
    dims, unit = (1, "frame") if likelihood == "bernoulli" else (batch.values.shape[2], "dimension")
    count = terms.frames * dims
    real = batch.weight > 0
    per = {
        "nll": terms.kl - terms.log_likelihood,
        "nll_importance_weighted": -weighted,
        "kl": terms.kl,
    }
    return {"density": {f"{name}_nats_per_{unit}": Sums.of(x, count, real) for name, x in per.items()}}


def of_model(model: LatentDynamics, batch: Batch, likelihood: LikelihoodName, samples: int) -> Scores:
    """All three tasks."""
    predicted, interpolated = model.predict(batch, samples), model.interpolate(batch, samples)
    return {
        **density(model, batch, likelihood, samples),
        "prediction": _points(predicted, batch, _predicted(batch), likelihood),
        "interpolation": _points(interpolated, batch, batch.present & ~batch.observed, likelihood),
    }


def of_persistence(batch: Batch, likelihood: LikelihoodName) -> Scores:
    """The last observed frame as the answer to every question; it has no density."""
    last = last_observed(batch)
    return {
        "prediction": _points(last, batch, _predicted(batch), likelihood),
        "interpolation": _points(last, batch, batch.present & ~batch.observed, likelihood),
    }


def _predicted(batch: Batch) -> Tensor:
    """Every observed frame but the first, which has no past to be predicted from."""
    return batch.observed & (batch.observed.cumsum(1) > 1)


def _points(mean: Tensor, batch: Batch, scored: Tensor, likelihood: LikelihoodName) -> dict[str, Sums]:
    if likelihood == "bernoulli":
        name, x = "accuracy_percent", 100.0 * accuracy(mean, batch.values, scored)
    else:
        name, x = "rmse", rmse(mean, batch.values, scored)
    return {name: Sums.of(x, scored.any(1).to(x), batch.weight > 0)}


def total(
    batches: Iterable[Batch], device: torch.device, score: Callable[[Batch], Scores]
) -> dict[str, dict[str, Estimate]]:
    """Sum `score` over the batches of this rank and over ranks. Every rank has as many batches, so that the
    reductions meet."""
    sums: Scores = {}
    with torch.inference_mode():
        for batch in batches:
            for task, metrics in score(batch.to(device)).items():
                for name, new in metrics.items():
                    known = sums.setdefault(task, {})
                    known[name] = known[name] + new if name in known else new
    return {
        task: {name: Sums(all_sum(x.data)).estimate() for name, x in metrics.items()} for task, metrics in sums.items()
    }


def as_dynamics(module: torch.nn.Module) -> LatentDynamics:
    """Every registered module is one; nn.Module's type cannot say so."""
    return cast(LatentDynamics, module)
