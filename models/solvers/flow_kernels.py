"""The loop of `flow` for numba: all steps of a trajectory, forward and backward, without an operation of torch.

Arrays are float32, contiguous and padded, matrices packed (`packing`). G networks drive P trajectories each through M
steps of R stages. Row n = R m + r of a kept array [G, P, M R, ...] belongs to stage r of step m. A step of length 0
changes nothing and is skipped.

With hidden layers a1 = act(u1), a2 = act(u2) and their slopes s1, s2, the trace of the field is s2^T t with t = K s1,
K = `flow.trace_matrix`.
"""

from typing import NamedTuple

import numpy as np

from models.solvers.compiled import ELU, RELU, TANH, Floats, activate, add_product, copy, fill, inner, jit, slopes

KINDS = {"tanh": TANH, "elu": ELU, "relu": RELU}


class Network(NamedTuple):
    """Packed matrices and padded biases [G, ...]; the backward pass takes transposed matrices."""

    W1: Floats
    b1: Floats
    W2: Floats
    b2: Floats
    W3: Floats
    b3: Floats
    K: Floats


class Scheme(NamedTuple):
    """A Runge-Kutta scheme, and the sizes of arrays before padding."""

    a: Floats
    """[R, R] coefficients of the stages, see `flow.Tableau`."""
    b: Floats
    """[R] weights of the stages."""
    activation: int
    """Activation function: `compiled.TANH`, `ELU` or `RELU`."""
    states: int
    """Number of components Z of a state."""
    outputs: int
    """Number of outputs O of a network. The derivatives of the first Z - O components of a state are its last ones."""


class Rows(NamedTuple):
    """Arrays with a vector per stage.

    The forward pass keeps z, a1, a2 and t; the backward pass writes the gradients of the field f, of u1, of u2 and of
    t."""

    z: Floats
    a1: Floats
    a2: Floats
    t: Floats


@jit
def forward(
    z0: Floats, dt: Floats, net: Network, scheme: Scheme, states: Floats, trace: Floats, kept: Rows
) -> None:  # fmt: skip
    """Write the states [M, G, P, Z] at the end of each step, and the integral of the trace over it [M, G, P].

    Rows are stored only if `kept` has one per stage."""
    M, G, P = dt.shape
    a, b, kind, Z, O = scheme  # noqa: E741
    R, lead, keep = len(b), Z - O, kept.z.shape[2] > 1
    z, k, f = np.empty_like(z0[0, 0]), np.zeros((R, z0.shape[2]), np.float32), np.empty_like(net.b3[0])
    s1, s2, sum_of_traces = np.empty_like(net.b1[0]), np.empty_like(net.b1[0]), np.empty_like(net.b1[0])
    for g in range(G):
        for p in range(P):
            copy(z, z0[g, p])
            for m in range(M):
                h = dt[m, g, p]
                fill(sum_of_traces)
                for r in range(R):
                    n = m * R + r if keep else 0
                    at, a1, a2, t = kept.z[g, p, n], kept.a1[g, p, n], kept.a2[g, p, n], kept.t[g, p, n]
                    fill(t)
                    if h == 0:
                        fill(at)
                        fill(a1)
                        fill(a2)
                        continue
                    combine(at, z, k, a[r], r)
                    copy(a1, net.b1[g])
                    add_product(a1, net.W1[g], at)
                    activate(a1, kind)
                    copy(a2, net.b2[g])
                    add_product(a2, net.W2[g], a1)
                    activate(a2, kind)
                    copy(f, net.b3[g])
                    add_product(f, net.W3[g], a2)
                    slopes(a1, s1, kind)
                    slopes(a2, s2, kind)
                    add_product(t, net.K[g], s1)
                    for i in range(len(t)):
                        sum_of_traces[i] += b[r] * (t[i] * s2[i])
                    for i in range(lead):
                        k[r, i] = h * at[Z - lead + i]
                    for i in range(O):
                        k[r, lead + i] = h * f[i]
                if h != 0:
                    combine(z, z, k, b, R)
                total = np.float32(0)
                for i in range(len(sum_of_traces)):
                    total += sum_of_traces[i]
                trace[m, g, p] = h * total
                for i in range(Z):
                    states[m, g, p, i] = z[i]


@jit
def backward(
    dt: Floats, net: Network, scheme: Scheme, kept: Rows, d_states: Floats, d_trace: Floats, d_z0: Floats, d: Rows
) -> None:  # fmt: skip
    """Write the gradients of z0 and of each stage, given those of states and trace."""
    M, G, P = dt.shape
    a, b, kind, Z, O = scheme  # noqa: E741
    R, lead = len(b), Z - O
    delta, d_k, d_stage = np.empty_like(d_z0[0, 0]), np.zeros_like(d_z0[0, 0]), np.zeros((R, d_z0.shape[2]), np.float32)
    s, d_s = np.empty_like(net.b1[0]), np.empty_like(net.b1[0])
    for g in range(G):
        for p in range(P):
            fill(delta)
            for m in range(M - 1, -1, -1):
                h = dt[m, g, p]
                for i in range(Z):
                    delta[i] += d_states[m, g, p, i]
                for r in range(R - 1, -1, -1):
                    n = m * R + r
                    a1, a2, t = kept.a1[g, p, n], kept.a2[g, p, n], kept.t[g, p, n]
                    d_f, d_u1, d_u2, d_t = d.z[g, p, n], d.a1[g, p, n], d.a2[g, p, n], d.t[g, p, n]
                    fill(d_f)
                    if h == 0:
                        fill(d_u1)
                        fill(d_u2)
                        fill(d_t)
                        continue
                    slope_back(d_k, h, delta, a, b, d_stage, r)
                    for i in range(O):
                        d_f[i] = d_k[lead + i]
                    slopes(a2, s, kind)
                    weight = d_trace[m, g, p] * h * b[r]
                    for i in range(len(s)):
                        d_t[i] = weight * s[i]
                        d_s[i] = weight * t[i]
                    layer_back(d_u2, a2, s, d_s, net.W3[g], d_f, kind)
                    fill(d_s)
                    add_product(d_s, net.K[g], d_t)
                    slopes(a1, s, kind)
                    layer_back(d_u1, a1, s, d_s, net.W2[g], d_u2, kind)
                    fill(d_stage[r])
                    add_product(d_stage[r], net.W1[g], d_u1)
                    for i in range(lead):
                        d_stage[r, Z - lead + i] += d_k[i]
                if h != 0:
                    for r in range(R):
                        for i in range(len(delta)):
                            delta[i] += d_stage[r, i]
            copy(d_z0[g, p], delta)


@inner
def slope_back(
    d_k: Floats, h: np.float32, delta: Floats, a: Floats, b: Floats, d_stage: Floats, r: int
) -> None:  # fmt: skip
    """Write the gradient of stage r's derivative, given that of the step's end and those of later stages."""
    for i in range(len(d_k)):
        d_k[i] = b[r] * delta[i]
        for later in range(r + 1, len(b)):
            d_k[i] += a[later, r] * d_stage[later, i]
        d_k[i] *= h


@inner
def layer_back(d_u: Floats, a: Floats, s: Floats, d_s: Floats, W: Floats, d_next: Floats, kind: int) -> None:
    """Write the gradient of a layer's argument u, where its value is a and its slope s.

    The gradient is s (act''/act' d_s + W d_next), with the gradients d_s of s and d_next of the argument of the next
    layer.
    """
    curves(a, d_u, kind)
    for i in range(len(s)):
        d_u[i] *= d_s[i]
    add_product(d_u, W, d_next)
    for i in range(len(s)):
        d_u[i] *= s[i]


@inner
def combine(out: Floats, z: Floats, k: Floats, coefficients: Floats, count: int) -> None:
    """Write z + sum_j coefficients[j] k_j, over the first `count` slopes, to `out`."""
    copy(out, z)
    for j in range(count):
        for i in range(len(out)):
            out[i] += coefficients[j] * k[j, i]


@inner
def curves(a: Floats, out: Floats, kind: int) -> None:
    """Write the derivative of an activation's slope with respect to its value, at the value a, to out."""
    for i in range(len(a)):
        if kind == TANH:
            out[i] = -np.float32(2) * a[i]
        elif kind == ELU:
            out[i] = np.float32(0) if a[i] > np.float32(0) else np.float32(1)
        else:
            out[i] = 0
