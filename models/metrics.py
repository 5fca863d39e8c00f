"""What a sequence's guesses are worth, one figure a sequence."""

import torch
from torch import Tensor


def accuracy(predicted: Tensor, truth: Tensor, scored: Tensor) -> Tensor:
    """TP / (TP + FP + FN) of each sequence over its scored frames and all channels (design: true negatives never
    count; a sequence silent in both truth and prediction counts 1).

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
    """Root mean square error of each sequence over its scored frames and all channels: [B], in units of the data."""
    squares = ((mean - truth).square().mean(2) * scored).sum(1)
    return (squares / scored.sum(1).clamp_min(1)).sqrt()
