"""The loop of `sde_loop` for Triton: one kernel takes all paths through all steps forward, another one takes them back.

A network of the published size is too large for one program. A phase of a step computes one layer of all networks: the
programs share the columns of the layer's output, then wait for each other, so that the next phase reads what all of
them wrote. They are launched together (`launch_cooperative_grid`), so that none waits for one that has not started.

A program holds the rows of all P paths, padded to a power of two, and a few columns. Padded entries are loaded as 0 and
never stored. Matrices are [inputs, outputs] of a product, so that neighbouring threads load neighbouring columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.solvers.gpu.flow_triton import ELU, TANH, activate, slope

PATIENCE = tl.constexpr(2**22)
"""Maximum number of polls at a barrier: some seconds, where a phase takes microseconds."""
GIVEN_UP = tl.constexpr(2**30)
"""Number of arrivals that no loop reaches. A program sets it after its last poll, so that no other program waits."""


@triton.jit
def meet(arrived, expected):  # type: ignore[no-untyped-def]
    """Wait until the programs have arrived `expected` times in total. What they wrote before is then visible."""
    tl.debug_barrier()  # all threads of this program are here
    seen = tl.atomic_add(arrived, 1, sem="acq_rel")
    polls = expected * 0
    while (seen < expected) & (polls < PATIENCE):
        seen = tl.atomic_add(arrived, 0, sem="acquire")
        polls += 1
    if polls == PATIENCE:
        tl.atomic_max(arrived, GIVEN_UP)
    tl.debug_barrier()


@triton.jit
def tile(x, p, n, P, stride, valid):  # type: ignore[no-untyped-def]
    """Load rows p and columns n of x [P, stride]; a stride of 0 repeats one row."""
    mask = (p[:, None] < P) & valid[None, :]
    return tl.load(x + p[:, None] * stride + n[None, :], mask=mask, other=0.0)


@triton.jit
def keep(x, p, n, P, stride, valid, value):  # type: ignore[no-untyped-def]
    """Store rows p and columns n of x [P, stride]."""
    tl.store(x + p[:, None] * stride + n[None, :], value, mask=(p[:, None] < P) & valid[None, :])


@triton.jit
def plus_tile(total, left, w, k, n, K, N, valid):  # type: ignore[no-untyped-def]
    """Return total + left w for rows k and columns n of w [K, N]."""
    return tl.dot(left, tile(w, k, n, K, N, valid), total, input_precision="ieee")


@triton.jit
def plus_product(  # type: ignore[no-untyped-def]
    total, x, w, p, n, P, K, N, valid, BK: tl.constexpr
):  # fmt: skip
    """Return total + x w for rows p of x [P, K] and columns n of w [K, N]."""
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        total = plus_tile(total, tile(x, p, k, P, K, k < K), w, k, n, K, N, valid)
    return total


@triton.jit
def share(known, g, DRIVER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return s_g, see `Shape.shares`; DRIVER is 0 for the prior, 1 for the posterior, 2 for prior plus difference."""
    of_prior = known * 0.0 + 1.0
    if DRIVER == 1:
        of_prior = 1.0 - known
    of_posterior = known
    if DRIVER == 0:
        of_posterior = known * 0.0
    return tl.where(g == 0, of_prior, of_posterior)


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    pre, dt, noise, informed, A, hidden, biases, V, c, path, u, a, arrived, M, P, Z, W, L, bound, low, high,
    G: tl.constexpr, DRIVER: tl.constexpr, KEEP: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Write path [1 + M, P, Z], whose first entry is given, and outputs u [M, G, P, 2 Z].

    Activations `a` are [L + 1, G, M, P, W] with KEEP, else of one step. Matrices A [G, Z, W], hidden [L, G, W, W] and
    V [G, W, 2 Z]; biases [L, G, W] and c [G, 2 Z]; pre [M, G, P, W], dt and informed [M, P], noise [M, P, Z]."""
    first, programs = tl.program_id(0), tl.num_programs(0)
    zero, p, of_tile = first.to(tl.int64) * 0, tl.arange(0, BP), tl.arange(0, BN)
    in_layer, expected = tl.cdiv(W, BN), programs * 0
    for m in range(M):
        at, kept, steps = zero + m, zero, 1
        if KEEP:
            kept, steps = zero + m, M
        x = path + at * P * Z
        for i in range(first, G * in_layer, programs):
            g, n = i // in_layer, i % in_layer * BN + of_tile
            y = tile(pre + (at * G + g) * P * W, p, n, P, W, n < W)
            y = plus_product(y, x, A + g * Z * W, p, n, P, Z, W, n < W, BK)
            keep(a + (g * steps + kept) * P * W, p, n, P, W, n < W, activate(y, ELU))
        expected += programs
        meet(arrived, expected)
        for layer in range(L):
            for i in range(first, G * in_layer, programs):
                g, n = i // in_layer, i % in_layer * BN + of_tile
                number = zero + layer * G + g
                y = tile(biases + number * W, p, n, P, 0, n < W)
                below, above = number * steps + kept, (number + G) * steps + kept
                y = plus_product(y, a + below * P * W, hidden + number * W * W, p, n, P, W, W, n < W, BK)
                keep(a + above * P * W, p, n, P, W, n < W, activate(y, ELU))
            expected += programs
            meet(arrived, expected)
        d = tl.load(dt + at * P + p, mask=p < P, other=0.0)
        known = tl.load(informed + at * P + p, mask=p < P, other=0.0)
        for i in range(first, tl.cdiv(Z, BN), programs):
            z = i * BN + of_tile
            target, spread = tl.zeros([BP, BN], tl.float32), tl.zeros([BP, BN], tl.float32)
            for g in tl.static_range(G):
                y, v = a + ((zero + L * G + g) * steps + kept) * P * W, V + g * W * 2 * Z
                out = u + (at * G + g) * P * 2 * Z
                drift, other = tile(c + g * 2 * Z, p, z, P, 0, z < Z), tile(c + g * 2 * Z, p, Z + z, P, 0, z < Z)
                drift = plus_product(drift, y, v, p, z, P, W, 2 * Z, z < Z, BK)
                other = plus_product(other, y, v, p, Z + z, P, W, 2 * Z, z < Z, BK)
                keep(out, p, z, P, 2 * Z, z < Z, drift)
                keep(out, p, Z + z, P, 2 * Z, z < Z, other)
                target += share(known, g, DRIVER)[:, None] * activate(drift, TANH)
                if g == 0:
                    spread = low + (high - low) * tl.sigmoid(other)
            state = (1.0 - d)[:, None] * tile(x, p, z, P, Z, z < Z) + (bound * d)[:, None] * target
            kick = tl.sqrt(d)[:, None] * tile(noise + at * P * Z, p, z, P, Z, z < Z)
            keep(x + P * Z, p, z, P, Z, z < Z, state + kick * spread)
        expected += programs
        meet(arrived, expected)
    if tl.load(arrived) >= GIVEN_UP:
        keep(path + (zero + M) * P * Z, p, of_tile, P, Z, of_tile < Z, tl.full([BP, BN], float("nan"), tl.float32))


@triton.jit
def output_gradients(  # type: ignore[no-untyped-def]
    outputs, incoming, of_state, of_drift, of_diffusion, p, k, P, Z
):  # fmt: skip
    """Return the gradients of a network's outputs of the drift and of the diffusion, for rows p and components k.

    The gradient of the state is `of_state`; its derivatives by tanh and sigmoid of the outputs are the next two."""
    t = activate(tile(outputs, p, k, P, 2 * Z, k < Z), TANH)
    s = tl.sigmoid(tile(outputs, p, Z + k, P, 2 * Z, k < Z))
    d_drift = tile(incoming, p, k, P, 2 * Z, k < Z) + of_drift * (1.0 - t * t) * of_state
    d_diffusion = tile(incoming, p, Z + k, P, 2 * Z, k < Z) + of_diffusion * s * (1.0 - s) * of_state
    return d_drift, d_diffusion


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    dt, noise, informed, A, hidden, V, u, a, d_states, d_outputs, delta, d_u, d_a, arrived, M, P, Z, W, L, bound, low,
    high, G: tl.constexpr, DRIVER: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of x0 to `delta` [P, Z], which is 0 at the start, of the outputs to d_u [G, M, P, 2 Z], and
    of the activations' arguments to d_a [L + 1, G, M, P, W].

    Matrices A [G, W, Z], hidden [L, G, W, W] and V [G, 2 Z, W]; the others as in `forward`."""
    first, programs = tl.program_id(0), tl.num_programs(0)
    zero, p, of_tile, of_inputs = first.to(tl.int64) * 0, tl.arange(0, BP), tl.arange(0, BN), tl.arange(0, BK)
    in_layer, expected = tl.cdiv(W, BN), programs * 0
    for step in range(M):
        m = M - 1 - step
        at = zero + m
        d = tl.load(dt + at * P + p, mask=p < P, other=0.0)
        known = tl.load(informed + at * P + p, mask=p < P, other=0.0)
        for i in range(first, G * in_layer, programs):
            g, n = i // in_layer, i % in_layer * BN + of_tile
            outputs, incoming = u + (at * G + g) * P * 2 * Z, d_outputs + (at * G + g) * P * 2 * Z
            v, out = V + g * 2 * Z * W, d_u + ((zero + g) * M + m) * P * 2 * Z
            gain, to_spread = (bound * d * share(known, g, DRIVER))[:, None], tl.where(g == 0, high - low, 0.0)
            total = tl.zeros([BP, BN], tl.float32)
            for lowest in range(0, Z, BK):
                k = lowest + of_inputs
                of_state = tile(delta, p, k, P, Z, k < Z) + tile(d_states + at * P * Z, p, k, P, Z, k < Z)
                kick = tl.sqrt(d)[:, None] * tile(noise + at * P * Z, p, k, P, Z, k < Z)
                d_drift, d_other = output_gradients(outputs, incoming, of_state, gain, to_spread * kick, p, k, P, Z)
                if i % in_layer == 0:
                    keep(out, p, k, P, 2 * Z, k < Z, d_drift)
                    keep(out, p, Z + k, P, 2 * Z, k < Z, d_other)
                total = plus_tile(total, d_drift, v, k, n, Z, W, n < W)
                total = plus_tile(total, d_other, v + Z * W, k, n, Z, W, n < W)
            last = ((zero + L * G + g) * M + m) * P * W
            keep(d_a + last, p, n, P, W, n < W, total * slope(tile(a + last, p, n, P, W, n < W), ELU))
        expected += programs
        meet(arrived, expected)
        for above in range(L):
            for i in range(first, G * in_layer, programs):
                g, n = i // in_layer, i % in_layer * BN + of_tile
                number = zero + (L - 1 - above) * G + g
                total, below = tl.zeros([BP, BN], tl.float32), (number * M + m) * P * W
                given, w = d_a + ((number + G) * M + m) * P * W, hidden + number * W * W
                total = plus_product(total, given, w, p, n, P, W, W, n < W, BK)
                keep(d_a + below, p, n, P, W, n < W, total * slope(tile(a + below, p, n, P, W, n < W), ELU))
            expected += programs
            meet(arrived, expected)
        for i in range(first, tl.cdiv(Z, BN), programs):
            z = i * BN + of_tile
            total = tile(delta, p, z, P, Z, z < Z) + tile(d_states + at * P * Z, p, z, P, Z, z < Z)
            total = (1.0 - d)[:, None] * total
            for g in tl.static_range(G):
                given = d_a + ((zero + g) * M + m) * P * W
                total = plus_product(total, given, A + g * W * Z, p, z, P, W, Z, z < Z, BK)
            keep(delta, p, z, P, Z, z < Z, total)
        expected += programs
        meet(arrived, expected)
    if tl.load(arrived) >= GIVEN_UP:
        keep(delta, p, of_tile, P, Z, of_tile < Z, tl.full([BP, BN], float("nan"), tl.float32))


COLUMNS = 16
"""Columns of a layer in a tile. 2 x 1,024 units make 128 tiles, about one for each multiprocessor."""


def constants(G: int, rows: int, driver: Sequence[int]) -> dict[str, Any]:
    """Return the constants that both kernels are compiled for, with the paths padded to a number of rows."""
    kind = 2 if len(driver) == 2 else driver[0]
    return {"G": G, "DRIVER": kind, "BP": rows, "BN": COLUMNS, "BK": 32}


def programs(device: torch.device, tiles: int) -> int:
    """Return the number of programs of a launch, which all run at the same time."""
    if device.type != "cuda":
        return 1  # the interpreter runs one after the other
    return min(torch.cuda.get_device_properties(device).multi_processor_count, tiles)


def launch(kernel: Any, tensors: Sequence[Tensor], u: Tensor, a: Tensor, scales: Sequence[float], **fixed: Any) -> None:
    """Launch a kernel for outputs u [M, G, P, 2 Z] and activations `a` [L + 1, G, M, P, W]; scales are bound, low and
    high."""
    (M, G, P, outputs), L, W = u.shape, len(a) - 1, a.shape[-1]
    grid = (programs(u.device, G * triton.cdiv(W, COLUMNS)),)
    sizes = M, P, outputs // 2, W, L
    kernel[grid](*tensors, *sizes, *scales, **fixed, num_warps=4, launch_cooperative_grid=True)
