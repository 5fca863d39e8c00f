"""The score of each sequence, as a ratio."""

from typing import NamedTuple

from torch import Tensor


class Ratio(NamedTuple):
    """A ratio for each sequence: its score is x / w, and that of many sequences sum(x) / sum(w)."""

    x: Tensor
    """[B] numerators."""
    w: Tensor
    """[B] denominators; 0 where nothing is scored."""
