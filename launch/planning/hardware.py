"""A model of the time of a training step on N GPUs, from counted sizes and assumed rates of the hardware.

The step of a rank takes the time of its arithmetic, or of its kernel launches if these take longer. A loop over time
launches its kernels one after another, for each frame of the longest sequence. The ranks wait for the slowest rank,
then for an all-reduce of the gradients, which does not overlap with computation: 2 (N - 1) / N of their bytes through
the slowest link, and the latency of a tree.
"""

import re
from math import ceil, log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from launch.planning.sizes import Sizes

_DRAWN_STEPS = 1000
"""Number of simulated steps for the mean length of each rank's longest sequence."""


class Hardware(NamedTuple):
    """Assumed rates of nodes with eight H100-class GPUs."""

    operations: float = 2e14
    """Floating-point operations per second that a GPU reaches in bfloat16; a fifth of its nominal rate."""
    launch: float = 5e-6
    """Seconds from one kernel to the next in eager mode."""
    inside: float = 3e11
    """Bytes per second of an all-reduce through NVLink."""
    between: float = 4e10
    """Bytes per second of an all-reduce through the network, with 400 Gbit/s per GPU."""
    latency: float = 1e-5
    """Seconds per step of the tree."""


def step(sizes: Sizes, hardware: Hardware, gpus: int, batch: int, longest: float) -> tuple[float, float]:
    """Return the seconds of arithmetic or launching, and of communication; `longest` is a fraction of the full
    length."""
    share = sizes.operations * batch / hardware.operations, sizes.calls * hardware.launch
    link = hardware.inside if gpus <= 8 else hardware.between
    reduced = 2 * (gpus - 1) / gpus * 4 * sizes.weights / link + 2 * ceil(log2(gpus)) * hardware.latency
    return max(share) * longest, reduced if gpus > 1 else 0.0


def longest(frames: NDArray[np.int64], ranks: int, batch: int, rng: np.random.Generator) -> float:
    """Return the mean over steps of a rank's longest sequence, for which all ranks wait, as a fraction of the full
    length."""
    drawn = rng.integers(len(frames), size=(_DRAWN_STEPS, min(ranks * batch, 4096)))
    return float(frames[drawn].max(1).mean() / frames.max())


def memory(sizes: Sizes, gpus: int, sequences: int, stage: int, average: bool) -> dict[str, float]:
    """Return the bytes of memory of a GPU at a ZeRO stage, for `sequences` sequences at a time.

    Weights and gradients take 4 bytes, Adam's moments 8, the average of the weights 4."""
    return {
        "weights": 4 * sizes.weights / (gpus if stage == 3 else 1),
        "gradients": 4 * sizes.weights / (gpus if stage >= 2 else 1),
        "optimizer state": 8 * sizes.weights / (gpus if stage >= 1 else 1),
        "average of the weights": 4.0 * sizes.weights * average,
        "activations": float(sequences * sizes.kept),
    }


_NOMINAL = {  # bfloat16, TF32, float32
    # NVIDIA's data sheets, read in copies that resellers and handbooks print: H100 (tensor figures with sparsity,
    # of which dense products reach half: 1,979, 989 and 67 for SXM, 1,513, 756 and 51 for PCIe), H200 (as H100 SXM),
    # A100 (nvidia-1758950-r4: 312, 156 and 19.5) and L40S (362.05, 183 and 91.6).
    "H100 PCIe": (756e12, 378e12, 51e12),
    "H100": (989e12, 495e12, 67e12),
    "H200": (989e12, 495e12, 67e12),
    "A100": (312e12, 156e12, 19.5e12),
    "L40S": (362e12, 183e12, 91.6e12),
}
"""Floating-point operations per second of dense matrix products, by a word of the name that torch reports."""

_SLOWER = "NVL"
"""Part of the names of H100 NVL and H200 NVL, whose rates are lower than those of the SXM boards."""


def matrix_rate(name: str, *, autocast: bool, tf32: bool) -> float | None:
    """Return the nominal rate of a GPU's matrix products, or None for an unknown one."""
    known = next((known for known in _NOMINAL if re.search(rf"\b{known}\b", name)), None)
    if known is None or _SLOWER in name:
        return None
    rates = _NOMINAL[known]
    return rates[0] if autocast else rates[1] if tf32 else rates[2]
