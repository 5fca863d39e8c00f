"""Scores of predictive distributions: their distance from the truth, and their calibration.

Each score is a ratio of sums over the scored frames of a sequence. The values for calibration curves are scored beside
them, under names that are not metrics: `coverage_L` for intervals of further levels, and `bin_K_confidence` and
`bin_K_frequency` for probabilities in bins. `calibration` reads them.
"""

import torch
from torch import Tensor

from launch.scoring.ratio import Ratio
from models.predictive import Predictive

LEVELS = tuple(range(10, 100, 10))
"""Probabilities of the central intervals, percent."""
BINS = 10
"""Number of bins of equal width for predicted probabilities."""

Columns = dict[str, Tensor]
"""Map from a rate in percent, or a horizon in frames, to its scored frames, bool [B, T]; of a table to its scored
entries, bool [B, T, D]."""
Found = dict[str, dict[str, Ratio]]
"""Map from a rate or horizon to metrics, and from these to the scores of the batch."""


def of_values(predictive: Predictive, truth: Tensor, columns: Columns) -> Found:
    """Score real-valued frames [B, T, D]: CRPS in units of the data, and the coverage, in percent, of central intervals
    of each of `LEVELS`."""
    anywhere = torch.stack(list(columns.values())).any(0)
    gaussians, y = predictive[anywhere].mixture(), truth[anywhere]
    outer = 100.0 * (2.0 * gaussians.cdf(y) - 1.0).abs()  # level of the interval that ends at y, percent
    frames = {"crps": gaussians.crps(y)} | {f"coverage_{level}_percent": 100.0 * (outer <= level) for level in LEVELS}
    spread = {name: _placed(x.mean(-1), anywhere) for name, x in frames.items()}
    return {column: {name: _over(x, scored) for name, x in spread.items()} for column, scored in columns.items()}


def of_probabilities(probability: Tensor, truth: Tensor, columns: Columns) -> Found:
    """Score probabilities [B, T, D] of binary values; a grey counts as the fraction of ones among many values."""
    missed = brier(probability, truth).mean(-1)
    return {
        column: {"brier": _over(missed, scored), **bins(probability, truth, _entries(scored, truth))}
        for column, scored in columns.items()
    }


def of_points(guess: Tensor, truth: Tensor, columns: Columns, bernoulli: bool) -> Found:
    """Score point predictions [B, T, D] as distributions without spread: CRPS is then the absolute error."""
    name, error = ("brier", brier(guess, truth)) if bernoulli else ("crps", (guess - truth).abs())
    return {column: {name: _over(error.mean(-1), scored)} for column, scored in columns.items()}


def brier(probability: Tensor, truth: Tensor) -> Tensor:
    """Return E (probability - Y)^2 of each entry, where Y is 1 with probability `truth`."""
    return truth * (1.0 - probability).square() + (1.0 - truth) * probability.square()


def _entries(frames: Tensor, like: Tensor) -> Tensor:
    return frames[..., None].expand_as(like)


def _placed(values: Tensor, where: Tensor) -> Tensor:
    """Place values [N] at the True entries of `where` [B, T]; 0 elsewhere."""
    return values.new_zeros(where.shape).masked_scatter(where, values)


def _over(frames: Tensor, scored: Tensor) -> Ratio:
    """Return the mean of `frames` [B, T] over scored frames."""
    return Ratio(torch.where(scored, frames, 0.0).double().sum(1), scored.sum(1))


def bins(probability: Tensor, truth: Tensor, scored: Tensor) -> dict[str, Ratio]:
    """Return the mean probability and the fraction of ones, in percent, of the `scored` entries [B, T, D] of each
    bin."""
    weight = scored.flatten(1).double()
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
