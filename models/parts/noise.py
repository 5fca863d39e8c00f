"""Standard normal noise as a pure function of a key.

Noise drawn from a global generator depends on how sequences are distributed over ranks and batches. Here entry (n, z)
of a sequence's noise is a hash of (its seed, stream, n, z), so that a sequence gets the same draw in every batch, with
any padding, on every rank and device.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.solvers.choice import faster_forms
from models.solvers.gpu import first_use, graphs, replay
from models.solvers.timegrid import padded_to

_ROWS = 64
"""Noise of several steps is captured for a multiple of this number. Sequences of many lengths, for example growing ones
in generation, then share few graphs."""

# SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014); int64 wraps.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1  # the masks turn the arithmetic shift into a logical one
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _keyed_bits(seed: Tensor, steps: int, width: int, stream: int | Tensor) -> Tensor:
    device = seed.device
    row = _mix(_mix(seed) + (torch.zeros_like(seed) + stream + 1) * _GOLDEN)[:, None, None]
    counter = torch.arange(steps, device=device)[:, None] * 2**20 + torch.arange(width, device=device)
    return _mix(row + (counter + 1) * _GOLDEN)


def keyed_normal(seed: Tensor, steps: int, width: int, stream: int | Tensor = 0) -> Tensor:
    """Draw standard normal noise, N(0, 1).

    Args:
        seed: [B] int64, one key per sequence.
        steps, width: shape of one sequence's noise; entry (n, z) does not depend on either.
        stream: a second key, one or [B] int64, that distinguishes the draws of one sequence (samples, uses).

    Returns:
        [B, steps, width] float32.
    """
    if not (faster_forms() and seed.device.type in graphs.CAPTURES):
        return _drawn(seed, steps, width, stream)
    streams = stream if isinstance(stream, Tensor) else torch.full_like(seed, stream)
    most = steps if steps == 1 else padded_to(steps, _ROWS)
    arguments, key = (seed, streams), (_drawn, most, width)

    def plain(keys: Sequence[Tensor]) -> list[Tensor]:
        return [_drawn(keys[0], most, width, keys[1])]

    def replayed(keys: Sequence[Tensor]) -> list[Tensor]:
        return replay.call(plain, key, keys)

    found = first_use.attempt("replayed noise", seed.device, replayed, plain, arguments, lambda: replayed(arguments))
    return (plain(arguments) if found is None else found)[0][:, :steps]


def _drawn(seed: Tensor, steps: int, width: int, stream: int | Tensor) -> Tensor:
    bits = _keyed_bits(seed, steps, width, stream)
    # Two 24-bit uniforms from one hash, then Box-Muller; the half keeps the logarithm finite.
    radius = ((bits & 0xFFFFFF).float() + 0.5) * 2.0**-24
    angle = ((bits >> 32) & 0xFFFFFF).float() * (2.0 * math.pi * 2.0**-24)
    return (-2.0 * radius.log()).sqrt() * angle.cos()


def keyed_uniform(seed: Tensor, steps: int, stream: int | Tensor = 0) -> Tensor:
    """Draw uniform noise on (0, 1), both ends excluded: [B, steps] float64. Keys are those of `keyed_normal`."""
    bits = _keyed_bits(seed, steps, 1, stream)[..., 0]
    return (((bits >> 16) & 0xFFFFFFFF).double() + 0.5) * 2.0**-32


def antithetic_normal(seed: Tensor, steps: int, width: int, draws: int, uses: int = 1, use: int = 0) -> Tensor:
    """Draw antithetic N(0, 1) noise [draws, B, steps, width].

    Draw 2 n + 1 is the negative of draw 2 n, which comes from stream `uses` n + `use`. A mean over pairs is exact for a
    function that is linear in the noise. The mean of a real-valued frame is nearly linear; independent draws would
    reach the same accuracy only in hundreds.
    """
    pairs = [keyed_normal(seed, steps, width, uses * n + use) for n in range((draws + 1) // 2)]
    return torch.stack([signed for noise in pairs for signed in (noise, -noise)])[:draws]


def antithetic_draw(seed: Tensor, steps: int, width: int, draw: int) -> Tensor:
    """Return draw number `draw` [B, steps, width] of `antithetic_normal`, without computing the others."""
    noise = keyed_normal(seed, steps, width, draw // 2)
    return -noise if draw % 2 else noise
