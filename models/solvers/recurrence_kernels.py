"""The loop of `recurrence` with the flow of GRU-ODE for numba: all steps of a pass, without an operation of torch.

Arrays are float32 and contiguous, vectors padded and matrices packed (`packing`). Each of R passes takes its B
sequences through M steps, in the order of `Plan.order`: those with most steps first, so that the ones left at a step
are the first. A step handles rows in blocks of `compiled.ROWS`: first all its sequences, then those with an
observation. The last block of either kind is filled up with rows of step length 0, or of zeros. Kept arrays have an
entry per block, by pass and step.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.solvers.compiled import ROWS, Floats, add, add_products, copy, inner, jit, sigmoid, spread, tanh

Integers = NDArray[np.int64]


class Networks(NamedTuple):
    """Packed matrices [R, tiles, inputs, lanes], gate by gate, and padded biases.

    The backward pass takes transposed matrices, each of which multiplies all gates at once."""

    W: Floats
    """Matrix of the gates z and r of the flow."""
    b: Floats
    V: Floats
    """Matrix of the candidate g of the flow."""
    c: Floats
    U: Floats
    """Matrix of the gates r, z and n of the update."""
    d: Floats


class Plan(NamedTuple):
    """The rows that each step and update has to compute."""

    dt: Floats
    """[M, R, B] step lengths."""
    observe: Floats
    """[M, R, B] 1 where the step ends at an observation, else 0."""
    order: Integers
    """[R, B] indices of the sequences of each pass, those with most steps first."""
    left: Integers
    """[R, M] number of sequences that have not ended before a step."""


class Rows(NamedTuple):
    """Blocks [blocks, ROWS, n] of steps and of updates."""

    start: Floats
    """States before each step."""
    zr: Floats
    rh: Floats
    """Product r h of each step."""
    g: Floats
    before: Floats
    """States before each update."""
    u: Floats
    """Gates r and z, and the recurrent part of n."""
    n: Floats


class Gradients(NamedTuple):
    """Gradients of the arguments of the gates, in blocks."""

    zr: Floats
    g: Floats
    u: Floats
    """Gradients of the arguments of r and z, and of the recurrent part of n."""


@jit
def forward(
    h0: Floats, x: Floats, net: Networks, plan: Plan, before: Floats, after: Floats, kept: Rows,
    keep: bool,
) -> None:  # fmt: skip
    """Write the states [M, R, B, H] before and after each step's observations.

    Without `keep` all blocks are written to the first."""
    M, R, B = plan.dt.shape
    H, width = h0.shape[2], kept.start.shape[2]
    h = np.zeros((-(-B // ROWS), ROWS, width), np.float32)
    which, none = np.empty(ROWS, np.int64), np.zeros(x.shape[3], np.float32)
    t, s = 0, 0
    for r in range(R):
        order = plan.order[r]
        h[:] = 0
        for j in range(B):
            copy(h[j // ROWS, j % ROWS, :H], h0[r, order[j]])
        for m in range(M):
            count = plan.left[r, m]
            for block in range(-(-count // ROWS)):
                state, p = h[block], t if keep else 0
                zr, g = kept.zr[p], kept.g[p]
                flow_gates(state, kept.start[p], zr, kept.rh[p], g, net.W[r], net.b[r], net.V[r], net.c[r])
                for i in range(min(ROWS, count - block * ROWS)):
                    advance(state[i], zr[i], g[i], plan.dt[m, r, order[block * ROWS + i]])
                t += 1
            found = 0
            for j in range(B):
                copy(before[m, r, order[j]], h[j // ROWS, j % ROWS])
                if j < count and plan.observe[m, r, order[j]] != 0:
                    which[found] = j
                    found += 1
                if found == ROWS or (j == B - 1 and found > 0):
                    p = s if keep else 0
                    start, u, n = kept.before[p], kept.u[p], kept.n[p]
                    for i in range(ROWS):
                        if i < found:
                            copy(start[i], h[which[i] // ROWS, which[i] % ROWS])
                        else:
                            start[i] = 0
                    spread(u, net.d[r])
                    add_products(u, net.U[r], start)
                    n[:] = 0
                    for i in range(ROWS):
                        if i < found:
                            gates(u[i], n[i], x[m, r, order[which[i]]], H)
                            jump(h[which[i] // ROWS, which[i] % ROWS], u[i], n[i])
                        else:
                            gates(u[i], n[i], none, H)
                    s += 1
                    found = 0
            for j in range(B):
                copy(after[m, r, order[j]], h[j // ROWS, j % ROWS])


@jit
def backward(
    net: Networks, plan: Plan, kept: Rows, d_before: Floats, d_after: Floats, d_h0: Floats, d_x: Floats, d: Gradients
) -> None:  # fmt: skip
    """Write the gradients of h0, of the entries of x that were read, and of the blocks."""
    M, R, B = plan.dt.shape
    H, width = d_h0.shape[2], kept.start.shape[2]
    delta = np.zeros((-(-B // ROWS), ROWS, width), np.float32)
    back, d_n = np.empty((ROWS, width), np.float32), np.empty((ROWS, width), np.float32)
    which = np.empty(ROWS, np.int64)
    t, s = 0, 0
    for r in range(R):
        for m in range(M):
            t += -(-plan.left[r, m] // ROWS)
            s += updates(plan, m, r)
        last_t, last_s = t, s
        order = plan.order[r]
        delta[:] = 0
        for m in range(M - 1, -1, -1):
            count = plan.left[r, m]
            for j in range(B):
                add(delta[j // ROWS, j % ROWS], d_after[m, r, order[j]])
            s -= updates(plan, m, r)
            p, found = s, 0
            for j in range(B):
                if j < count and plan.observe[m, r, order[j]] != 0:
                    which[found] = j
                    found += 1
                if found == ROWS or (j == B - 1 and found > 0):
                    d_u = d.u[p]
                    updates_back(delta, which, found, back, d_u, d_n, kept.u[p], kept.n[p], kept.before[p], net.U[r])
                    for i in range(found):
                        target = d_x[m, r, order[which[i]]]
                        copy(target[:H], d_u[i])
                        copy(target[H : 2 * H], d_u[i, width:])
                        copy(target[2 * H :], d_n[i])
                    p += 1
                    found = 0
            for j in range(B):
                add(delta[j // ROWS, j % ROWS], d_before[m, r, order[j]])
            blocks = -(-count // ROWS)
            t -= blocks
            for block in range(blocks):
                p = t + block
                d_zr, d_g = d.zr[p], d.g[p]
                for i in range(ROWS):
                    j = block * ROWS + i
                    length = plan.dt[m, r, order[j]] if j < count else np.float32(0)
                    step_back(delta[block, i], d_zr[i], d_g[i], kept.zr[p, i], kept.g[p, i], kept.start[p, i], length)
                gates_back(delta[block], back, d_zr, d_g, kept.zr[p], kept.rh[p], net.W[r], net.V[r])
        for j in range(B):
            copy(d_h0[r, order[j]], delta[j // ROWS, j % ROWS])
        t, s = last_t, last_s


@inner
def updates(plan: Plan, m: int, r: int) -> int:
    """Return the number of blocks of a step's updates."""
    found = 0
    for b in range(plan.observe.shape[2]):
        found += plan.observe[m, r, b] != 0
    return -(-found // ROWS)


@inner
def flow_gates(
    state: Floats, start: Floats, zr: Floats, rh: Floats, g: Floats, W: Floats, b: Floats, V: Floats, c: Floats
) -> None:  # fmt: skip
    """Write the gates z and r, r h and the candidate g of a block of states, and keep these states in `start`."""
    width = start.shape[1]
    for i in range(ROWS):
        copy(start[i], state[i])
    spread(zr, b)
    add_products(zr, W, start)
    for i in range(ROWS):
        for j in range(zr.shape[1]):
            zr[i, j] = sigmoid(zr[i, j])
        for j in range(width):
            rh[i, j] = zr[i, width + j] * start[i, j]
    spread(g, c)
    add_products(g, V, rh)
    for i in range(ROWS):
        for j in range(width):
            g[i, j] = tanh(g[i, j])


@inner
def gates(u: Floats, n: Floats, x: Floats, H: int) -> None:
    """Replace the recurrent parts in u by r and z, and write n."""
    width = len(n)
    for j in range(H):
        u[j] = sigmoid(u[j] + x[j])
    for j in range(H):
        u[width + j] = sigmoid(u[width + j] + x[H + j])
    for j in range(H):
        n[j] = tanh(x[2 * H + j] + u[j] * u[2 * width + j])


@inner
def advance(h: Floats, zr: Floats, g: Floats, length: np.float32) -> None:
    """Take an Euler step h' = h + length (1 - z) (g - h) in place."""
    for j in range(len(h)):
        h[j] += length * ((np.float32(1) - zr[j]) * (g[j] - h[j]))


@inner
def jump(h: Floats, u: Floats, n: Floats) -> None:
    """Update h'' = h' + (1 - z) (n - h') in place."""
    width = len(h)
    for j in range(width):
        h[j] += (np.float32(1) - u[width + j]) * (n[j] - h[j])


@inner
def updates_back(
    delta: Floats, which: Integers, found: int, back: Floats, d_u: Floats, d_n: Floats, u: Floats, n: Floats,
    before: Floats, U: Floats,
) -> None:  # fmt: skip
    """Turn delta into the gradient before the updates of the first `found` rows `which`; `back` is scratch.

    Write the gradients of the arguments of r and z and of the recurrent part of n, and those of the argument of n."""
    one, width = np.float32(1), n.shape[1]
    for i in range(ROWS):
        if i >= found:
            d_u[i], back[i] = 0, 0
            continue
        at = delta[which[i] // ROWS, which[i] % ROWS]
        for j in range(width):
            r, z, un = u[i, j], u[i, width + j], u[i, 2 * width + j]
            slope = at[j] * (one - z) * (one - n[i, j] * n[i, j])
            d_n[i, j] = slope
            d_u[i, j] = slope * un * r * (one - r)
            d_u[i, width + j] = at[j] * (before[i, j] - n[i, j]) * z * (one - z)
            d_u[i, 2 * width + j] = slope * r
            back[i, j] = at[j] * z
    add_products(back, U, d_u)
    for i in range(found):
        copy(delta[which[i] // ROWS, which[i] % ROWS], back[i])


@inner
def step_back(
    delta: Floats, d_zr: Floats, d_g: Floats, zr: Floats, g: Floats, start: Floats, length: np.float32
) -> None:  # fmt: skip
    """Write the gradients of the arguments of z and g, and replace delta by the gradient of h without its parts through
    z, r and g."""
    one = np.float32(1)
    for j in range(len(g)):
        z = zr[j]
        toward = length * (one - z)
        d_g[j] = delta[j] * toward * (one - g[j] * g[j])
        d_zr[j] = delta[j] * length * (start[j] - g[j]) * z * (one - z)
        delta[j] -= delta[j] * toward


@inner
def gates_back(
    delta: Floats, d_rh: Floats, d_zr: Floats, d_g: Floats, zr: Floats, rh: Floats, W: Floats, V: Floats
) -> None:  # fmt: skip
    """Write the gradient of the argument of r, and add to delta those of h through z, r and g; `d_rh` is scratch."""
    width = delta.shape[1]
    d_rh[:] = 0
    add_products(d_rh, V, d_g)
    for i in range(ROWS):
        for j in range(width):
            r = zr[i, width + j]
            d_zr[i, width + j] = d_rh[i, j] * rh[i, j] * (np.float32(1) - r)
            delta[i, j] += d_rh[i, j] * r
    add_products(delta, W, d_zr)
