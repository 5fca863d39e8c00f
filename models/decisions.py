"""Decide which channels of binary frames are 1, given their probabilities.

The score is TP / (TP + FP + FN) over the scored frames of a sequence. Its expectation for a set A of entries, as a
ratio of expected counts, is

    J(A) = E TP / E (TP + FP + FN) = sum_A p / (|A| + sum_{not A} p)

Since J(A) >= J iff sum_A ((1 + J) p - J) >= J sum p, the best set is {p > J / (1 + J)} with J the best score itself
(Dinkelbach, 1967). It is the first k entries in descending order of p, for the k with the largest J(A). A threshold of
0.5 is optimal only for J = 1. On a silent sequence the empty set scores 1 and every other set 0, so the empty set is
taken if the probability of silence, prod (1 - p), is at least J.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BeforeValidator
from torch import Tensor

Rule = Annotated[
    Literal["expected_score", "0.5"],
    BeforeValidator(lambda value: str(value) if isinstance(value, float) else value),  # YAML reads a number
]
"""Rule that converts probabilities to a set of channels: the best expected score, or the papers' threshold of 0.5."""


def decided(probability: Tensor, scored: Tensor, rule: Rule) -> Tensor:
    """Decide which channels are 1: bool [B, T, D], all False in frames that are not scored.

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
    """Return the threshold J / (1 + J) of each sequence, or 1 if silence scores better: [B] float64."""
    p = torch.where(scored[..., None], probability, 0.0).flatten(1).double()
    best = p.sort(1, descending=True).values.cumsum(1)
    total, count = best[:, -1:], torch.arange(1, p.shape[1] + 1, device=p.device)
    J = (best / (count + total - best)).amax(1)
    silence = torch.log1p(-p).sum(1).exp()
    return torch.where(silence >= J, 1.0, J / (1.0 + J))


class Neighbours(NamedTuple):
    """Times that lie between two neighbouring known frames, which are at most one interval of the data apart."""

    before: Tensor
    """[Q] index of the known frame before each time; -1 for a time without two such neighbours."""
    frames: Tensor
    """[B, K, D] bool values of the known frames."""

    @classmethod
    def of(cls, known: Tensor, frames: Tensor, times: Tensor, interval: float) -> "Neighbours":
        """Find the neighbours of `times` [Q] among `frames` [B, K, D], known at the times `known` [K]; in seconds."""
        if len(known) < 2:
            return cls(torch.full_like(times, -1, dtype=torch.long), frames > 0.5)
        at = (torch.searchsorted(known, times.contiguous(), right=True) - 1).clamp(0, len(known) - 2)
        start, end = known[at], known[at + 1]
        between = (times > start) & (times < end) & (end - start < interval * 1.001)
        return cls(torch.where(between, at, -1), frames > 0.5)


def joined(notes: Tensor, neighbours: Neighbours) -> Tensor:
    """Return binary frames, bool [B, Q, D], with at most one change of a channel between two neighbouring known frames.

    Data have no finer resolution than the interval of such a pair. A channel that is 1 in both frames stays 1 between
    them, and one that is 0 in both stays 0. A channel that ends changes at its first 0, and one that begins changes
    after its last 0.
    """
    notes, before = notes.clone(), neighbours.before.tolist()
    for q, n in enumerate(before):
        if n >= 0:
            first, last = neighbours.frames[:, n], neighbours.frames[:, n + 1]
            earlier = notes[:, q - 1] if q and before[q - 1] == n else first
            here = torch.where(first, notes[:, q] & earlier | last, notes[:, q])
            notes[:, q] = torch.where(first | last, here, False)
    for q, n in reversed(list(enumerate(before))):
        if n >= 0:
            first, last = neighbours.frames[:, n], neighbours.frames[:, n + 1]
            later = notes[:, q + 1] if q + 1 < len(before) and before[q + 1] == n else last
            notes[:, q] = torch.where(last & ~first, notes[:, q] & later, notes[:, q])
    return notes
