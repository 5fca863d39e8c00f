"""Scores of a whole predictive distribution: how far it is from the truth, and whether it is as sure as it should be.

Each is a ratio of sums over the scored frames of a sequence. What a calibration curve is drawn from is scored beside
them, under names that are no metrics: `coverage_L` for intervals of further levels, and of probabilities in bins
`bin_K_confidence`, `bin_K_frequency`. `calibration` reads them.
"""

import torch
from torch import Tensor

from launch.scoring.ratio import Ratio
from models.predictive import Predictive

LEVELS = tuple(range(10, 100, 10))
"""Percent: probabilities of the central intervals."""
BINS = 10
"""Of equal width, of predicted probabilities."""

Columns = dict[str, Tensor]
"""Rate in percent, or horizon in frames -> bool [B, T], the frames that are scored there."""
Found = dict[str, dict[str, Ratio]]
"""The same -> metric -> scores of the batch."""


def of_values(predictive: Predictive, truth: Tensor, columns: Columns) -> Found:
    """Score real-valued frames [B, T, D]: CRPS in units of the data, and the share of values, in percent, that lie in
    central intervals of each of `LEVELS`."""
    anywhere = torch.stack(list(columns.values())).any(0)
    gaussians, y = predictive[anywhere].gaussians(), truth[anywhere]
    outer = 100.0 * (2.0 * gaussians.cdf(y) - 1.0).abs()  # percent: the level of the interval that ends at y
    frames = {"crps": gaussians.crps(y)} | {f"coverage_{level}_percent": 100.0 * (outer <= level) for level in LEVELS}
    spread = {name: _placed(x.mean(-1), anywhere) for name, x in frames.items()}
    return {column: {name: _over(x, scored) for name, x in spread.items()} for column, scored in columns.items()}


def of_probabilities(probability: Tensor, truth: Tensor, columns: Columns) -> Found:
    """Score probabilities [B, T, D] of binary values; a grey is the share of ones among many values."""
    brier = _brier(probability, truth).mean(-1)
    return {
        column: {"brier": _over(brier, scored), **_bins(probability, truth, scored)}
        for column, scored in columns.items()
    }


def of_points(guess: Tensor, truth: Tensor, columns: Columns, bernoulli: bool) -> Found:
    """Score guesses [B, T, D] without a distribution as if they were certain: CRPS is then the absolute error."""
    name, error = ("brier", _brier(guess, truth)) if bernoulli else ("crps", (guess - truth).abs())
    return {column: {name: _over(error.mean(-1), scored)} for column, scored in columns.items()}


def _brier(probability: Tensor, truth: Tensor) -> Tensor:
    """E (probability - Y)^2 of Y that is 1 with probability `truth`."""
    return truth * (1.0 - probability).square() + (1.0 - truth) * probability.square()


def _placed(values: Tensor, where: Tensor) -> Tensor:
    """[N] -> [B, T]"""
    return values.new_zeros(where.shape).masked_scatter(where, values)


def _over(frames: Tensor, scored: Tensor) -> Ratio:
    """The mean of [B, T] over scored frames."""
    return Ratio(torch.where(scored, frames, 0.0).double().sum(1), scored.sum(1))


def _bins(probability: Tensor, truth: Tensor, scored: Tensor) -> dict[str, Ratio]:
    """Mean probability and share of ones, in percent, of the entries of each bin."""
    weight = scored[..., None].expand_as(probability).flatten(1).double()
    number = (probability * BINS).long().clamp(0, BINS - 1).flatten(1)
    sums = [
        torch.zeros(len(weight), BINS, dtype=torch.float64, device=weight.device).scatter_add(1, number, weight * x)
        for x in (torch.ones_like(weight), probability.flatten(1).double(), truth.flatten(1).double())
    ]
    count, confidence, frequency = (x.unbind(1) for x in sums)
    found = {}
    for k in range(BINS):
        found[f"bin_{k}_confidence"] = Ratio(100.0 * confidence[k], count[k])
        found[f"bin_{k}_frequency"] = Ratio(100.0 * frequency[k], count[k])
    return found
