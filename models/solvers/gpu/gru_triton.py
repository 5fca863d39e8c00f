"""The pointwise arithmetic of `fused_gru` for Triton: a program takes a row, one sequence of one pass, in each kernel.

Arrays are contiguous float32. The last argument of a kernel has H numbers in a row, the others H, 2 H, 3 H or 1.
"""

import triton
import triton.language as tl
from torch import Tensor

from models.solvers.gpu.flow_triton import TANH, activate


@triton.jit
def gru_gates(zr, h, rh, H, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, gate, mask = row * H + c, row * 2 * H + c, c < H
    z, r = tl.sigmoid(tl.load(zr + gate, mask=mask)), tl.sigmoid(tl.load(zr + gate + H, mask=mask))
    tl.store(zr + gate, z, mask=mask)
    tl.store(zr + gate + H, r, mask=mask)
    tl.store(rh + at, r * tl.load(h + at, mask=mask), mask=mask)


@triton.jit
def gru_flow_step(zr, h, dt, g, out, H, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, gate, mask = row * H + c, row * 2 * H + c, c < H
    z, state = tl.load(zr + gate, mask=mask), tl.load(h + at, mask=mask)
    target = activate(tl.load(g + at, mask=mask), TANH)
    tl.store(g + at, target, mask=mask)
    tl.store(out + at, state + tl.load(dt + row) * (1.0 - z) * (target - state), mask=mask)


@triton.jit
def gru_cell(x, h, observe, rzu, n, out, H, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, gate, mask = row * H + c, row * 3 * H + c, c < H
    r = tl.sigmoid(tl.load(rzu + gate, mask=mask) + tl.load(x + gate, mask=mask))
    z = tl.sigmoid(tl.load(rzu + gate + H, mask=mask) + tl.load(x + gate + H, mask=mask))
    u, state = tl.load(rzu + gate + 2 * H, mask=mask), tl.load(h + at, mask=mask)
    new = activate(tl.load(x + gate + 2 * H, mask=mask) + r * u, TANH)
    tl.store(rzu + gate, r, mask=mask)
    tl.store(rzu + gate + H, z, mask=mask)
    tl.store(n + at, new, mask=mask)
    tl.store(out + at, state + tl.load(observe + row) * (1.0 - z) * (new - state), mask=mask)


@triton.jit
def gru_cell_back(delta, incoming, rzu, n, h, observe, d_u, d_n, out, H, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, gate, mask = row * H + c, row * 3 * H + c, c < H
    r, z = tl.load(rzu + gate, mask=mask), tl.load(rzu + gate + H, mask=mask)
    u, new, state = tl.load(rzu + gate + 2 * H, mask=mask), tl.load(n + at, mask=mask), tl.load(h + at, mask=mask)
    d, m = tl.load(delta + at, mask=mask) + tl.load(incoming + at, mask=mask), tl.load(observe + row)
    toward = m * (1.0 - z)
    of_new = d * toward * (1.0 - new * new)
    tl.store(d_n + at, of_new, mask=mask)
    tl.store(d_u + gate, of_new * u * r * (1.0 - r), mask=mask)
    tl.store(d_u + gate + H, d * m * (state - new) * z * (1.0 - z), mask=mask)
    tl.store(d_u + gate + 2 * H, of_new * r, mask=mask)
    tl.store(out + at, d * (1.0 - toward), mask=mask)


@triton.jit
def gru_flow_step_back(delta, incoming, zr, g, h, dt, d_zr, d_g, out, H, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, gate, mask = row * H + c, row * 2 * H + c, c < H
    z, target, state = tl.load(zr + gate, mask=mask), tl.load(g + at, mask=mask), tl.load(h + at, mask=mask)
    d, length = tl.load(delta + at, mask=mask) + tl.load(incoming + at, mask=mask), tl.load(dt + row)
    toward = length * (1.0 - z)
    tl.store(d_g + at, d * toward * (1.0 - target * target), mask=mask)
    tl.store(d_zr + gate, d * length * (state - target) * z * (1.0 - z), mask=mask)
    tl.store(out + at, d * (1.0 - toward), mask=mask)


@triton.jit
def gru_gates_back(d_rh, zr, h, d_zr, out, H, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, gate, mask = row * H + c, row * 2 * H + H + c, c < H
    r, d, state = tl.load(zr + gate, mask=mask), tl.load(d_rh + at, mask=mask), tl.load(h + at, mask=mask)
    tl.store(d_zr + gate, d * state * r * (1.0 - r), mask=mask)
    tl.store(out + at, tl.load(out + at, mask=mask) + d * r, mask=mask)


KERNELS = {
    kernel.__name__: kernel
    for kernel in (gru_gates, gru_flow_step, gru_cell, gru_cell_back, gru_flow_step_back, gru_gates_back)
}


def launch(name: str, tensors: tuple[Tensor, ...]) -> None:
    """Launch a kernel for all rows of its arguments."""
    H = tensors[-1].shape[-1]
    KERNELS[name][(tensors[-1].numel() // H,)](*tensors, H, BLOCK=triton.next_power_of_2(H), num_warps=4)
