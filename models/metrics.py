"""Metrics of predicted frames, one number per sequence."""

import torch
from torch import Tensor


def accuracy(predicted: Tensor, truth: Tensor, scored: Tensor) -> Tensor:
    """Return TP / (TP + FP + FN) of each sequence over its scored frames and all channels.

    True negatives do not count. The result is 1 for a sequence that is silent in both truth and prediction.

    Args:
        predicted: bool [B, T, D]. truth: [B, T, D] of 0 and 1. scored: bool [B, T].

    Returns:
        [B]
    """
    true = truth > 0.5
    hits = (predicted & true & scored[..., None]).sum((1, 2))
    either = ((predicted | true) & scored[..., None]).sum((1, 2))
    return torch.where(either > 0, hits / either.clamp_min(1), 1.0)


def rmse(mean: Tensor, truth: Tensor, scored: Tensor) -> Tensor:
    """Return the root mean square error [B] of each sequence over its scored frames and all channels.

    `mean` and `truth` are [B, T, D], `scored` is bool [B, T]; the result has the units of the data."""
    squares = ((mean - truth).square().mean(2) * scored).sum(1)
    return (squares / scored.sum(1).clamp_min(1)).sqrt()
