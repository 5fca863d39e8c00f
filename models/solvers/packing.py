"""Convert tensors to the layout of compiled loops: padded with zeros to whole vectors, matrices in tiles of columns."""

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

LANES = 16
"""Number of floats in a vector. Arrays are padded to multiples of it, so that a compiled loop has no remainder."""


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


def by_gate(weight: Tensor, H: int) -> Tensor:
    """Return a weight [R, gates x H, n] with the rows of each gate padded to whole vectors."""
    return F.pad(weight.detach().unflatten(1, (-1, H)), (0, 0, 0, padded(H) - H)).flatten(1, 2)


def arrays(*tensors: Tensor) -> list[NDArray[np.float32]]:
    """Return contiguous tensors as arrays of the same memory, and copies of others."""
    return [x.detach().contiguous().numpy() for x in tensors]
