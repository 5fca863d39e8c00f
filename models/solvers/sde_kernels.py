"""The loop of `sde_loop` for numba: all steps of a block of paths, forward and backward, without an operation of torch.

Arrays are float32 and contiguous. G networks of L hidden layers drive P paths through M steps, in blocks of
`compiled.ROWS` paths, the last of them filled with zeros. Kept arrays [G, blocks, M, ROWS, n] have padded last axes,
and matrices are packed (`packing`).
"""

from typing import NamedTuple

import numpy as np

from models.solvers.compiled import ELU, ROWS, Floats, activate, add_products, jit, sigmoid, slopes, spread, tanh


class Networks(NamedTuple):
    """Packed matrices and padded biases; the backward pass takes transposed matrices."""

    A: Floats
    """[G, tiles, Z, lanes] weights of the first layer for the state."""
    hidden: Floats
    """[L - 1, G, tiles, W, lanes] weights of the later hidden layers."""
    biases: Floats
    """[L - 1, G, W] biases of the later hidden layers."""
    V: Floats
    """[G, tiles, W, lanes] weights of the output."""
    c: Floats
    """[G, 2 Z] biases of the output."""


class Steps(NamedTuple):
    """Coefficients of x' = stay x + sum_d gains_d tanh(u_d[:Z]) + low + high sigmoid(u_0[Z:])."""

    stay: Floats
    """[M, P]"""
    driver: Floats
    """[D] index of each network d that drives the state."""
    gains: Floats
    """[D, M, P]"""
    low: Floats
    """[M, P, Z]"""
    high: Floats
    """[M, P, Z]"""


@jit
def forward(
    x0: Floats, pre: Floats, net: Networks, steps: Steps, states: Floats, outputs: Floats, starts: Floats, kept: Floats
) -> None:  # fmt: skip
    """Write states [M, P, Z] and outputs u [M, G, P, 2 Z].

    `starts`, the states at the start of each step, and `kept`, the activations [L, G, blocks, M, ROWS, W], are written
    if their axis of steps has length M."""
    M, G, P, W = pre.shape
    (L, _, blocks, rows, _, _), Z = kept.shape, x0.shape[1]
    u = np.empty((G, ROWS, net.c.shape[1]), np.float32)
    x = np.zeros_like(starts[0, 0])
    for block in range(blocks):
        first, count = block * ROWS, min(ROWS, P - block * ROWS)
        for i in range(ROWS):
            for j in range(Z):
                x[i, j] = x0[first + i, j] if i < count else np.float32(0)
        for m in range(M):
            n = m if rows == M else 0
            start = starts[block, n]
            for i in range(ROWS):
                for j in range(x.shape[1]):
                    start[i, j] = x[i, j]
            for g in range(G):
                y = kept[0, g, block, n]
                for i in range(ROWS):
                    for j in range(W):
                        y[i, j] = pre[m, g, first + i, j] if i < count else np.float32(0)
                    for j in range(W, y.shape[1]):
                        y[i, j] = 0
                add_products(y, net.A[g], start)
                activate(y.reshape(-1), ELU)
                for layer in range(1, L):
                    y = kept[layer, g, block, n]
                    spread(y, net.biases[layer - 1, g])
                    add_products(y, net.hidden[layer - 1, g], kept[layer - 1, g, block, n])
                    activate(y.reshape(-1), ELU)
                spread(u[g], net.c[g])
                add_products(u[g], net.V[g], y)
            for i in range(count):
                p = first + i
                stay = steps.stay[m, p]
                for j in range(Z):
                    x[i, j] = steps.low[m, p, j] + stay * x[i, j] + steps.high[m, p, j] * sigmoid(u[0, i, Z + j])
                for d in range(len(steps.driver)):
                    gain, of = steps.gains[d, m, p], u[steps.driver[d], i]
                    for j in range(Z):
                        x[i, j] += gain * tanh(of[j])
                for j in range(Z):
                    states[m, p, j] = x[i, j]
                for g in range(G):
                    for j in range(2 * Z):
                        outputs[m, g, p, j] = u[g, i, j]


@jit
def backward(
    net: Networks, steps: Steps, outputs: Floats, kept: Floats, d_states: Floats, d_outputs: Floats, d_x0: Floats,
    d_kept: Floats, d_u: Floats,
) -> None:  # fmt: skip
    """Write the gradients of x0, of the activations' arguments (as `kept`), and of the outputs (padded)."""
    M, G, P, _ = outputs.shape
    (L, _, blocks, _, _, W), Z = kept.shape, d_x0.shape[1]
    delta = np.zeros((ROWS, net.A.shape[1] * net.A.shape[3]), np.float32)
    slope = np.empty(ROWS * W, np.float32)
    for block in range(blocks):
        first, count = block * ROWS, min(ROWS, P - block * ROWS)
        delta[:] = 0
        for m in range(M - 1, -1, -1):
            for g in range(G):
                d_u[g, block, m] = 0
            for i in range(count):
                p = first + i
                for g in range(G):
                    for j in range(2 * Z):
                        d_u[g, block, m, i, j] = d_outputs[m, g, p, j]
                for j in range(Z):
                    delta[i, j] += d_states[m, p, j]
                    s = sigmoid(outputs[m, 0, p, Z + j])
                    d_u[0, block, m, i, Z + j] += delta[i, j] * steps.high[m, p, j] * s * (np.float32(1) - s)
                for d in range(len(steps.driver)):
                    g, gain = steps.driver[d], steps.gains[d, m, p]
                    for j in range(Z):
                        target = tanh(outputs[m, g, p, j])
                        d_u[g, block, m, i, j] += delta[i, j] * gain * (np.float32(1) - target * target)
                for j in range(Z):
                    delta[i, j] *= steps.stay[m, p]
            for g in range(G):
                for layer in range(L - 1, -1, -1):
                    out = d_kept[layer, g, block, m]
                    out[:] = 0
                    if layer == L - 1:
                        add_products(out, net.V[g], d_u[g, block, m])
                    else:
                        add_products(out, net.hidden[layer, g], d_kept[layer + 1, g, block, m])
                    slopes(kept[layer, g, block, m].reshape(-1), slope, ELU)
                    flat = out.reshape(-1)
                    for i in range(len(flat)):
                        flat[i] *= slope[i]
                add_products(delta, net.A[g], d_kept[0, g, block, m])
        for i in range(count):
            for j in range(Z):
                d_x0[first + i, j] = delta[i, j]
