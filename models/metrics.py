"""Scores as sums that add up over batches and ranks, so that nothing is ever an average of averages."""

from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    value: float
    stderr: float
    n: int
    """Sequences behind the value."""


class Sums(NamedTuple):
    """What a ratio sum(x) / sum(w) over sequences, and its standard error, are computed from: [6] float64."""

    data: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor, counted: Tensor) -> "Sums":
        """Over sequences [B] where `counted` and w > 0: a sequence without a scored frame has no score."""
        keep = counted & (w > 0)
        x, w = torch.where(keep, x.double(), 0.0), torch.where(keep, w.double(), 0.0)
        return cls(torch.stack([keep.sum().double(), w.sum(), x.sum(), (x * x).sum(), (x * w).sum(), (w * w).sum()]))

    def __add__(self, other: "Sums") -> "Sums":  # type: ignore[override]
        return Sums(self.data + other.data)

    def estimate(self) -> Estimate:
        """The ratio and its standard error by linearisation (for w = 1: of the mean); NaN for what too few
        sequences cannot give."""
        n, w, x, xx, xw, ww = self.data.tolist()
        if n == 0:
            return Estimate(float("nan"), float("nan"), 0)
        ratio = x / w
        spread = max(xx - 2 * ratio * xw + ratio * ratio * ww, 0.0)
        stderr = (spread * n / (n - 1)) ** 0.5 / w if n > 1 else float("nan")
        return Estimate(ratio, stderr, int(n))


def accuracy(probability: Tensor, truth: Tensor, scored: Tensor) -> Tensor:
    """TP / (TP + FP + FN) of each sequence over its scored frames and all channels (design: true negatives never
    count; a sequence silent in both truth and prediction counts 1).

    Args:
        probability, truth: [B, T, D]; a probability above 0.5 is a prediction. scored: [B, T] bool.

    Returns:
        [B]
    """
    predicted, true = probability > 0.5, truth > 0.5
    hits = (predicted & true & scored[..., None]).sum((1, 2))
    either = ((predicted | true) & scored[..., None]).sum((1, 2))
    return torch.where(either > 0, hits / either.clamp_min(1), 1.0)


def rmse(mean: Tensor, truth: Tensor, scored: Tensor) -> Tensor:
    """Root mean square error of each sequence over its scored frames and all channels: [B], in units of the data."""
    squares = ((mean - truth).square().mean(2) * scored).sum(1)
    return (squares / scored.sum(1).clamp_min(1)).sqrt()
