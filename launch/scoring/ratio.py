"""What is kept of every sequence that is scored."""

from typing import NamedTuple

from torch import Tensor


class Ratio(NamedTuple):
    """x / w is a sequence's score, and sum(x) / sum(w) that of many."""

    x: Tensor
    """[B]"""
    w: Tensor
    """[B]; 0 where nothing is scored."""
