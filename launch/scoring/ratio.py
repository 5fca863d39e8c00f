"""The score of every sequence as a ratio."""

from typing import NamedTuple

from torch import Tensor


class Ratio(NamedTuple):
    """x / w is a sequence's score, and sum(x) / sum(w) that of many."""

    x: Tensor
    """[B] numerators."""
    w: Tensor
    """[B] denominators; 0 where nothing is scored."""
