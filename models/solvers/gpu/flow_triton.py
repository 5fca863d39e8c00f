"""The loop of `flow` for Triton: one kernel takes each trajectory through all steps forward, and one goes backward.

A program holds the weights of its trajectory's network in registers and goes through all steps of all stages; nothing
is launched in between. Vectors and matrices are padded to powers of two: padded entries are loaded as 0 and never
stored. Row (m R + r) N + n of a kept array belongs to stage r of step m of trajectory n, of N = G P.

A state is (s, v), Q components each, with ds/dt = v and dv/dt = f(s, v) (`SECOND`), or v alone with dv/dt = f(v).
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

TANH, ELU, RELU = (tl.constexpr(kind) for kind in range(3))
KINDS = {"tanh": 0, "elu": 1, "relu": 2}


@triton.jit
def activate(x, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    if KIND == TANH:
        y = tl.exp(-2.0 * tl.abs(x))
        t = (1.0 - y) / (1.0 + y)
        xx = x * x
        small = x * (1.0 + xx * (-1.0 / 3.0 + xx * (2.0 / 15.0 - xx * (17.0 / 315.0))))  # where 1 - y would cancel
        return tl.where(xx < 0.01, small, tl.where(x < 0.0, -t, t))
    elif KIND == ELU:
        low = tl.where(x > 0.0, 0.0, x)
        small = low * (1.0 + low * (1.0 / 2.0 + low * (1.0 / 6.0 + low * (1.0 / 24.0 + low * (1.0 / 120.0)))))
        return tl.where(x > 0.0, x, tl.where(low > -0.1, small, tl.exp(low) - 1.0))
    else:
        return tl.where(x < 0.0, 0.0, x)


@triton.jit
def slope(a, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the derivative of the activation function at the point where its value is a."""
    if KIND == TANH:
        return 1.0 - a * a
    elif KIND == ELU:
        return tl.where(a > 0.0, 0.0, a) + 1.0
    else:
        return tl.where(a > 0.0, 1.0, 0.0)


@triton.jit
def curve(a, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the derivative of the slope with respect to the value a."""
    if KIND == TANH:
        return -2.0 * a
    elif KIND == ELU:
        return tl.where(a > 0.0, 0.0, 1.0)
    else:
        return tl.zeros_like(a)


@triton.jit
def matrix(W, g, inner, outer, n_inner, n_outer, stride):  # type: ignore[no-untyped-def]
    """Load network g's matrix [n_inner, stride] as a tile [inner, outer].

    Neighbouring threads hold neighbouring columns, so that `product`, a sum over rows, mostly adds a thread's own
    numbers."""
    where = g * n_inner * n_outer + inner[:, None] * stride + outer[None, :]
    return tl.load(W + where, mask=(inner[:, None] < n_inner) & (outer[None, :] < n_outer), other=0.0)


@triton.jit
def product(tile, x):  # type: ignore[no-untyped-def]
    return tl.sum(tile * x[:, None], 0)


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    z0, dt, W1, b1, W2, b2, W3, b3, K, states, trace, z_rows, a1_rows, a2_rows, t_rows, M, N, P, Q, H, Z,
    QB: tl.constexpr, HB: tl.constexpr, KIND: tl.constexpr, SECOND: tl.constexpr, KEEP: tl.constexpr,
    R: tl.constexpr, A10: tl.constexpr, A20: tl.constexpr, A21: tl.constexpr, A30: tl.constexpr, A31: tl.constexpr,
    A32: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, B3: tl.constexpr,
):  # fmt: skip
    """Write the states [M, N, Z] at the end of each step, the integral of the trace over it [M, N], and the kept rows.

    dt is [M, N], z0 [N, Z]; networks as `flow.Weights`, with K `flow.trace_matrix`, and all matrices transposed."""
    n = tl.program_id(0).to(tl.int64)
    g, q, h = n // P, tl.arange(0, QB), tl.arange(0, HB)
    first = W1 + g * (Z - Q) * H  # beside g Q H, which `matrix` adds
    Wv, Ws = matrix(first + (Z - Q) * H, g, q, h, Q, H, H), matrix(first, g, q, h, Q, H, H)
    m2, m3, k = matrix(W2, g, h, h, H, H, H), matrix(W3, g, h, q, H, Q, Q), matrix(K, g, h, h, H, H, H)
    c1, c2 = tl.load(b1 + g * H + h, mask=h < H, other=0.0), tl.load(b2 + g * H + h, mask=h < H, other=0.0)
    c3 = tl.load(b3 + g * Q + q, mask=q < Q, other=0.0)
    s = tl.load(z0 + n * Z + q, mask=q < Q, other=0.0)  # not used unless SECOND
    v = tl.load(z0 + n * Z + Z - Q + q, mask=q < Q, other=0.0)
    for m in range(M):
        at = (n * 0 + m) * N + n  # in 64 bits
        d = tl.load(dt + at)
        s_end, v_end, total = s, v, d * 0.0
        s0, s1, s2 = tl.zeros([QB], tl.float32), tl.zeros([QB], tl.float32), tl.zeros([QB], tl.float32)
        v0, v1, v2 = s0, s0, s0
        for r in range(R):
            row = ((n * 0 + m) * R + r) * N + n
            from_0 = tl.where(r == 1, A10, tl.where(r == 2, A20, tl.where(r == 3, A30, 0.0)))
            from_1 = tl.where(r == 2, A21, tl.where(r == 3, A31, 0.0))
            from_2 = tl.where(r == 3, A32, 0.0)
            weight = tl.where(r == 0, B0, tl.where(r == 1, B1, tl.where(r == 2, B2, B3)))
            s_at = s + from_0 * s0 + from_1 * s1 + from_2 * s2
            v_at = v + from_0 * v0 + from_1 * v1 + from_2 * v2
            u = c1 + product(Wv, v_at)
            if SECOND:
                u += product(Ws, s_at)
            a1 = activate(u, KIND)
            a2 = activate(c2 + product(m2, a1), KIND)
            t = product(k, slope(a1, KIND))
            d_s, d_v = d * v_at, d * (c3 + product(m3, a2))
            s_end, v_end = s_end + weight * d_s, v_end + weight * d_v
            total += weight * tl.sum(t * slope(a2, KIND), 0)
            s0, v0 = tl.where(r == 0, d_s, s0), tl.where(r == 0, d_v, v0)
            s1, v1 = tl.where(r == 1, d_s, s1), tl.where(r == 1, d_v, v1)
            s2, v2 = tl.where(r == 2, d_s, s2), tl.where(r == 2, d_v, v2)
            if KEEP:
                if SECOND:
                    tl.store(z_rows + row * Z + q, s_at, mask=q < Q)
                tl.store(z_rows + row * Z + Z - Q + q, v_at, mask=q < Q)
                tl.store(a1_rows + row * H + h, a1, mask=h < H)
                tl.store(a2_rows + row * H + h, a2, mask=h < H)
                tl.store(t_rows + row * H + h, t, mask=h < H)
        s, v = s_end, v_end
        if SECOND:
            tl.store(states + at * Z + q, s, mask=q < Q)
        tl.store(states + at * Z + Z - Q + q, v, mask=q < Q)
        tl.store(trace + at, d * total)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    dt, W1, W2, W3, K, a1_rows, a2_rows, t_rows, d_states, d_trace, d_z0, to_f, to_u1, to_u2, to_t, M, N, P, Q, H, Z,
    QB: tl.constexpr, HB: tl.constexpr, KIND: tl.constexpr, SECOND: tl.constexpr,
    R: tl.constexpr, A10: tl.constexpr, A20: tl.constexpr, A21: tl.constexpr, A30: tl.constexpr, A31: tl.constexpr,
    A32: tl.constexpr, B0: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr, B3: tl.constexpr,
):  # fmt: skip
    """Write the gradients of z0 [N, Z], and of f, u1, u2 and t = K a1' of each stage, given those of states and
    trace."""
    n = tl.program_id(0).to(tl.int64)
    g, q, h = n // P, tl.arange(0, QB), tl.arange(0, HB)
    first = W1 + g * H * (Z - Q)
    Wv, Ws = matrix(first + Z - Q, g, h, q, H, Q, Z), matrix(first, g, h, q, H, Q, Z)
    m2, m3, k = matrix(W2, g, h, h, H, H, H), matrix(W3, g, q, h, Q, H, H), matrix(K, g, h, h, H, H, H)
    d_s, d_v = tl.zeros([QB], tl.float32), tl.zeros([QB], tl.float32)
    for i in range(M):
        m = M - 1 - i
        at = (n * 0 + m) * N + n
        d, of_trace = tl.load(dt + at), tl.load(d_trace + at)
        if SECOND:
            d_s += tl.load(d_states + at * Z + q, mask=q < Q, other=0.0)
        d_v += tl.load(d_states + at * Z + Z - Q + q, mask=q < Q, other=0.0)
        s_end, v_end = d_s, d_v
        s1, s2, s3 = tl.zeros([QB], tl.float32), tl.zeros([QB], tl.float32), tl.zeros([QB], tl.float32)
        v1, v2, v3 = s1, s1, s1
        for j in range(R):
            r = R - 1 - j
            row = ((n * 0 + m) * R + r) * N + n
            to_1, to_2 = tl.where(r == 0, A10, 0.0), tl.where(r == 0, A20, tl.where(r == 1, A21, 0.0))
            to_3 = tl.where(r == 0, A30, tl.where(r == 1, A31, tl.where(r == 2, A32, 0.0)))
            weight = tl.where(r == 0, B0, tl.where(r == 1, B1, tl.where(r == 2, B2, B3)))
            of_s = d * (weight * d_s + to_1 * s1 + to_2 * s2 + to_3 * s3)
            of_f = d * (weight * d_v + to_1 * v1 + to_2 * v2 + to_3 * v3)
            share = weight * d * of_trace
            a1 = tl.load(a1_rows + row * H + h, mask=h < H, other=0.0)
            a2 = tl.load(a2_rows + row * H + h, mask=h < H, other=0.0)
            t = tl.load(t_rows + row * H + h, mask=h < H, other=0.0)
            of_t = share * slope(a2, KIND)
            of_u2 = (product(m3, of_f) + curve(a2, KIND) * share * t) * slope(a2, KIND)
            of_u1 = (product(m2, of_u2) + curve(a1, KIND) * product(k, of_t)) * slope(a1, KIND)
            tl.store(to_f + row * Q + q, of_f, mask=q < Q)
            tl.store(to_u1 + row * H + h, of_u1, mask=h < H)
            tl.store(to_u2 + row * H + h, of_u2, mask=h < H)
            tl.store(to_t + row * H + h, of_t, mask=h < H)
            at_v = product(Wv, of_u1)
            at_s = at_v
            if SECOND:
                at_s = product(Ws, of_u1)
                at_v += of_s
            s_end, v_end = s_end + at_s, v_end + at_v
            s1, v1 = tl.where(r == 1, at_s, s1), tl.where(r == 1, at_v, v1)
            s2, v2 = tl.where(r == 2, at_s, s2), tl.where(r == 2, at_v, v2)
            s3, v3 = tl.where(r == 3, at_s, s3), tl.where(r == 3, at_v, v3)
        d_s, d_v = s_end, v_end
    if SECOND:
        tl.store(d_z0 + n * Z + q, d_s, mask=q < Q)
    tl.store(d_z0 + n * Z + Z - Q + q, d_v, mask=q < Q)


_COEFFICIENTS = ("A10", "A20", "A21", "A30", "A31", "A32", "B0", "B1", "B2", "B3")


def constants(H: int, Q: int, Z: int, stages: int, coefficients: Sequence[float], activation: str) -> dict[str, Any]:
    """Return the constants that a kernel is compiled for: sizes rounded up to powers of two, and the scheme.

    `coefficients` are those of a Runge-Kutta step with 2 or 4 stages, in the order of the kernels' arguments."""
    sizes = {"QB": max(triton.next_power_of_2(Q), 2), "HB": max(triton.next_power_of_2(H), 16)}
    scheme = dict(zip(_COEFFICIENTS, coefficients, strict=True))
    return {**sizes, "KIND": KINDS[activation], "SECOND": Z > Q, "R": stages, **scheme}


def warps(H: int) -> int:
    """Return the number of warps of a program: each thread holds at most 128 numbers of two hidden matrices."""
    return 4 if H <= 64 else 8


def launch_forward(
    z0: Tensor, dt: Tensor, network: Sequence[Tensor], outputs: Sequence[Tensor], stages: int,
    coefficients: Sequence[float], activation: str, keep: bool,
) -> None:  # fmt: skip
    """Launch `forward` for G networks (W1^T, b1, W2^T, b2, W3^T, b3, K^T), each with P trajectories.

    Shapes are those of `flow`. The outputs are states, traces and kept rows."""
    tensors = (z0, dt, *network, *outputs)
    _launch(forward, z0, dt, network[3], network[5], tensors, stages, coefficients, activation, KEEP=keep)


def launch_backward(
    dt: Tensor, network: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor], stages: int,
    coefficients: Sequence[float], activation: str,
) -> None:  # fmt: skip
    """Launch `backward` for G networks (W1, W2, W3, K). The inputs are a1, a2, t and the gradients of states and
    traces, the outputs those of z0 and of all stages."""
    tensors = (dt, *network, *inputs, *outputs)
    _launch(backward, outputs[0], dt, inputs[0], outputs[1], tensors, stages, coefficients, activation)


def _launch(
    kernel: Any, z0: Tensor, dt: Tensor, hidden: Tensor, output: Tensor, tensors: Sequence[Tensor], stages: int,
    coefficients: Sequence[float], activation: str, **options: bool,
) -> None:  # fmt: skip
    """Launch a program for each trajectory; the last axes of `hidden` and `output` are a layer and f."""
    (G, P, Z), H, Q = z0.shape, hidden.shape[-1], output.shape[-1]
    of_call = constants(H, Q, Z, stages, coefficients, activation)
    kernel[(G * P,)](*tensors, len(dt), G * P, P, Q, H, Z, **of_call, **options, num_warps=warps(H))
