"""Tensors in the form that compiled loops read: padded with zeros to whole vectors, matrices in tiles of columns."""

import torch.nn.functional as F
from torch import Tensor

LANES = 16
"""Numbers in a vector. Vectors are padded to a multiple, so that a compiled loop has no remainder."""


def padded(n: int) -> int:
    """Return the least multiple of LANES that is at least n."""
    return -(-n // LANES) * LANES


def pad(x: Tensor) -> Tensor:
    """Return x [..., n] as [..., padded(n)], contiguous and detached."""
    return F.pad(x.detach(), (0, padded(x.shape[-1]) - x.shape[-1])).contiguous()


def pack(matrix: Tensor) -> Tensor:
    """Return a matrix [..., in, out], for x -> x M, as tiles [..., padded(out) / LANES, padded(in), LANES]."""
    rows = pad(matrix.mT).mT
    return pad(rows).unflatten(-1, (-1, LANES)).movedim(-2, -3).contiguous()
