"""Decide which channels of binary frames are 1, given their probabilities.

The score is TP / (TP + FP + FN) over the scored frames of a sequence. Its expectation for a set A of entries, as a
ratio of expected counts, is

    J(A) = E TP / E (TP + FP + FN) = sum_A p / (|A| + sum_{not A} p)

Since J(A) >= J iff sum_A ((1 + J) p - J) >= J sum p, the best set is {p > J / (1 + J)} with J the best score itself
(Dinkelbach, 1967). It is the first k entries in descending order of p, for the k with the largest J(A). A threshold of
0.5 is optimal for J = 1 alone. On a silent sequence the empty set scores 1 and every other set 0, so the empty set is
taken where the probability of silence, prod (1 - p), is at least J.
"""

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

Rule = Annotated[
    Literal["expected_score", "0.5"],
    BeforeValidator(lambda value: str(value) if isinstance(value, float) else value),  # YAML reads a number
]
"""Rule that turns probabilities into a set: the best expected score, or the papers' threshold of 0.5."""


def decided(probability: Tensor, scored: Tensor, rule: Rule) -> Tensor:
    """Return the channels decided to be 1, bool [B, T, D]; all False in frames that are not scored.

    Args:
        probability: [B, T, D]. scored: [B, T] bool, the frames of a sequence that are decided together.
        rule: see `Rule`.
    """
    threshold = best_threshold(probability, scored) if rule == "expected_score" else probability.new_full((1,), 0.5)
    return (probability > threshold[:, None, None]) & scored[..., None]


def completed(probability: Tensor, known: Tensor, rule: Rule) -> Tensor:
    """Return binary frames, bool [B, T, D]: `known` [B, T] frames unchanged, all others decided together."""
    return torch.where(known[..., None], probability > 0.5, decided(probability, ~known, rule))


def best_threshold(probability: Tensor, scored: Tensor) -> Tensor:
    """Return the threshold J / (1 + J) of each sequence, or 1 where silence scores better: [B] float64."""
    p = torch.where(scored[..., None], probability, 0.0).flatten(1).double()
    best = p.sort(1, descending=True).values.cumsum(1)
    total, count = best[:, -1:], torch.arange(1, p.shape[1] + 1, device=p.device)
    J = (best / (count + total - best)).amax(1)
    silence = torch.log1p(-p).sum(1).exp()
    return torch.where(silence >= J, 1.0, J / (1.0 + J))
