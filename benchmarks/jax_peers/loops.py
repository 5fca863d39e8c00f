"""The three loops over time in JAX: one `lax.scan` each, differentiated by JAX, with the arguments and layout of ours.

`unroll` is the number of steps in an iteration of the scan. A product of small matrices has two forms, `PRODUCTS`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax, nn

Product = Callable[[Array, Array], Array]
"""Type of a function that multiplies x [..., P, n] by the transpose of a weight [..., out, n]."""

# `dot` calls XLA's matrix product; `sum` is a sum that XLA fuses with the operations around it.
PRODUCTS: dict[str, Product] = {
    "dot": lambda x, weight: x @ weight.mT,
    "sum": lambda x, weight: (x[..., :, None, :] * weight[..., None, :, :]).sum(-1),
}


def flow(times: Product, unroll: int, trace_after: bool) -> Callable[..., tuple[Array, ...]]:
    """Return the loop of `models.solvers.flow`, with rk4 and tanh: states [M, G, P, Z] and trace [M, G, P].

    The trace is computed in each stage, or for all stages at once after the scan."""

    def run(
        z0: Array, W1: Array, b1: Array, W2: Array, b2: Array, W3: Array, b3: Array, dt: Array
    ) -> tuple[Array, ...]:
        lead = W1.shape[2] - W3.shape[1]
        K = W2 * (W1[..., lead:] @ W3).mT

        def trace(a1: Array, a2: Array) -> Array:
            return (times(1 - a1 * a1, K) * (1 - a2 * a2)).sum(-1)

        def field(z: Array) -> tuple[Array, Array | tuple[Array, Array]]:
            a1 = jnp.tanh(times(z, W1) + b1)
            a2 = jnp.tanh(times(a1, W2) + b2)
            k = jnp.concatenate([z[..., z.shape[-1] - lead :], times(a2, W3) + b3], -1)
            return k, ((a1, a2) if trace_after else trace(a1, a2))

        def step(z: Array, h: Array) -> tuple[Array, tuple[Array, list[Any]]]:
            k1, t1 = field(z)
            k2, t2 = field(z + h * k1 / 3)
            k3, t3 = field(z + h * (k2 - k1 / 3))
            k4, t4 = field(z + h * (k1 - k2 + k3))
            z = z + h * (k1 + 3 * k2 + 3 * k3 + k4) / 8
            return z, (z, [t1, t2, t3, t4])

        states, stages = lax.scan(step, z0, dt, unroll=unroll)[1]
        if trace_after:
            (M, G, P, H), n = stages[0][0].shape, len(stages)
            of_network = [
                jnp.stack(a).transpose(2, 0, 1, 3, 4).reshape(G, n * M * P, H) for a in zip(*stages, strict=True)
            ]
            stages = trace(*of_network).reshape(G, n, M, P).transpose(1, 2, 0, 3)
        t1, t2, t3, t4 = stages
        return states, dt[..., 0] * (t1 + 3 * t2 + 3 * t3 + t4) / 8

    return run


def sde(times: Product, unroll: int, bound: float, low: float, high: float) -> Callable[..., tuple[Array, ...]]:
    """Return the loop of `models.solvers.sde_loop` with the posterior as driver: states [M, P, Z] and outputs
    [M, G, P, 2 Z]."""

    def run(x0: Array, pre: Array, A: Array, V: Array, c: Array, *rest: Array) -> tuple[Array, ...]:
        *layers, dt, noise, informed = rest
        depth, Z = len(layers) // 2, x0.shape[-1]
        weights, biases = layers[:depth], layers[depth:]
        kick = jnp.sqrt(dt) * noise

        def step(x: Array, at: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
            p, h, e, share = at
            y = nn.elu(p + times(x, A))
            for weight, bias in zip(weights, biases, strict=True):
                y = nn.elu(times(y, weight) + bias)
            u = times(y, V) + c
            pull = jnp.tanh(u[..., :Z])
            drift = bound * ((1 - share) * pull[0] + share * pull[1]) - x
            x = x + h * drift + (low + (high - low) * nn.sigmoid(u[0, :, Z:])) * e
            return x, (x, u)

        return lax.scan(step, x0, (pre, dt, kick, informed), unroll=unroll)[1]

    return run


def recurrence(times: Product, unroll: int) -> Callable[..., tuple[Array, ...]]:
    """Return the loop of `models.solvers.recurrence` with the flow of GRU-ODE: the states [M, R, B, H] before and after
    each observation."""

    def run(
        h0: Array, x: Array, W: Array, b: Array, V: Array, c: Array, U: Array, d: Array, dt: Array, observe: Array
    ) -> tuple[Array, ...]:  # fmt: skip
        H = h0.shape[-1]

        def step(h: Array, at: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            inputs, length, seen = at
            z, r = jnp.split(nn.sigmoid(times(h, W) + b), 2, -1)
            before = h + length * (1 - z) * (jnp.tanh(times(r * h, V) + c) - h)
            u = times(before, U) + d
            r, z = jnp.split(nn.sigmoid(inputs[..., : 2 * H] + u[..., : 2 * H]), 2, -1)
            n = jnp.tanh(inputs[..., 2 * H :] + r * u[..., 2 * H :])
            after = before + seen * (1 - z) * (n - before)
            return after, (before, after)

        return lax.scan(step, h0, (x, dt, observe), unroll=unroll)[1]

    return run


def with_gradients(loop: Callable[..., tuple[Array, ...]], leaves: int) -> Callable[..., tuple[Array, ...]]:
    """Return a compiled function that computes the loop's outputs and gradients.

    Its arguments are those of the loop, of which the first `leaves` get gradients, and the gradients of the loop's two
    outputs."""

    @jax.jit
    def run(arguments: tuple[Array, ...], incoming: tuple[Array, ...]) -> tuple[Array, ...]:
        outputs, back = jax.vjp(lambda *x: loop(*x, *arguments[leaves:]), *arguments[:leaves])
        return *outputs, *back(incoming)

    return run
