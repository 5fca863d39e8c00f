"""The loop of `sde_loop` for numba: all steps of a block of paths, forward and backward, without an operation of torch.

Arrays are float32 and contiguous. G networks of L hidden layers drive P paths through M steps, in blocks of
`compiled.ROWS` paths, the last of them filled with zeros. Kept arrays [G, blocks, M, ROWS, n] have padded last axes,
and matrices are packed (`packing`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import weight_gradient
from models.solvers.compiled import ELU, ROWS, Floats, activate, add_products, jit, sigmoid, slopes, spread, tanh
from models.solvers.packing import arrays, pack, pad, padded


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
    """[M, P] factor of x."""
    driver: Floats
    """[D] index of each network d that drives the state."""
    gains: Floats
    """[D, M, P] factor of each drift."""
    low: Floats
    """[M, P, Z] noise of the smallest diffusion."""
    high: Floats
    """[M, P, Z] noise of the rest of the diffusion, at its largest."""


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


class Compiled(torch.autograd.Function):
    """The loop as one operation of torch. Its first arguments are the coefficients of `Steps`, in their order."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, stay: Tensor, driver: Sequence[int], gains: Tensor, low: Tensor, high: Tensor, x0: Tensor,
        pre: Tensor, A: Tensor, V: Tensor, c: Tensor, *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (M, G, P, W), Z, L = pre.shape, x0.shape[1], len(layers) // 2 + 1
        hidden, biases = layers[: L - 1], layers[L - 1 :]
        states, u = x0.new_empty(M, P, Z), x0.new_empty(M, G, P, 2 * Z)
        steps = M if any(ctx.needs_input_grad) else 1  # type: ignore[attr-defined]
        blocks = -(-P // ROWS)
        starts = x0.new_zeros(blocks, steps, ROWS, padded(Z))
        kept = x0.new_empty(L, G, blocks, steps, ROWS, padded(W))
        inner, inner_biases = (
            _stacked(pack, [w.mT for w in hidden], A),
            _stacked(pad, [b[:, 0] for b in biases], c[:, 0]),
        )
        net = Networks(*arrays(pack(A.mT), inner, inner_biases, pack(V.mT), pad(c[:, 0])))
        stays, *scales = arrays(stay[..., 0], gains[..., 0], low, high)
        taken = Steps(stays, np.array(driver), *scales)
        start, inputs = arrays(x0, pre)
        forward(start, inputs, net, taken, *arrays(states, u, starts, kept))
        ctx.save_for_backward(A, V, u, starts, kept, *hidden)
        ctx.steps = taken  # type: ignore[attr-defined]
        return states, u

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        A, V, u, starts, a, *hidden = ctx.saved_tensors  # type: ignore[attr-defined]
        (M, G, P, _), (L, _, blocks, _, rows, _), (W, Z) = u.shape, a.shape, A.shape[1:]
        net = Networks(*arrays(pack(A), _stacked(pack, hidden, A), a.new_zeros(0, G, 1), pack(V), a.new_zeros(G, 1)))
        d_x0, d_a, d_u = a.new_empty(P, Z), torch.empty_like(a), a.new_empty(G, blocks, M, rows, padded(2 * Z))
        backward(
            net, ctx.steps,  # type: ignore[attr-defined]
            *arrays(u, a, d_states.contiguous(), d_outputs.contiguous(), d_x0, d_a, d_u),
        )  # fmt: skip
        by_rows = [x.flatten(1, 3) for x in (*a, *d_a, d_u)]  # [G, all rows, n]
        a_rows, d_rows = by_rows[:L], by_rows[L : 2 * L]
        d_A, _ = weight_gradient(d_rows[0], starts.expand(G, *starts.shape).flatten(1, 3))
        d_V, d_c = weight_gradient(by_rows[-1], a_rows[-1])
        d_hidden = [weight_gradient(d_rows[i + 1], a_rows[i]) for i in range(L - 1)]
        d_pre = d_a[0].permute(2, 0, 1, 3, 4).flatten(2, 3)[:, :, :P, :W]
        return (
            None, None, None, None, None, d_x0, d_pre, d_A[:, :W, :Z], d_V[:, : 2 * Z, :W], d_c[..., : 2 * Z],
            *(w[:, :W, :W] for w, _ in d_hidden), *(b[..., :W] for _, b in d_hidden),
        )  # fmt: skip


def _stacked(form: Callable[[Tensor], Tensor], layers: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the layers after the first as one tensor [L - 1, G, ...], each converted by `form`."""
    return form(torch.stack(tuple(layers))) if layers else form(like)[None][:0]
