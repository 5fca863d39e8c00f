"""The loops, sizes and limits that `benchmarks.jax_peers` measures."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from benchmarks.jax_peers import loops
from benchmarks.measure import Step, in_turn
from models.solvers import flow, recurrence, sde_loop
from models.solvers.gru_flow import GruFlow

ROUNDS = 9
BOUND, LOW, HIGH = 2.0, 0.3, 1.1


class Problem(NamedTuple):
    """The arguments of a loop, for our implementation and JAX's."""

    leaves: list[Tensor]
    """Arguments that get gradients, in JAX's order."""
    data: list[Tensor]
    """Arguments without gradients, in JAX's order."""
    ours: Callable[[], tuple[Tensor, ...]]
    """Function that runs our loop on the leaves and data."""
    theirs: dict[str, Callable[..., tuple[jax.Array, ...]]]
    """JAX's loops by the name of their form."""


class Case(NamedTuple):
    name: str
    make: Callable[[], Problem]
    least: float | None = None
    """Smallest ratio of JAX's time to ours that is accepted; None accepts any."""

    def measure(self) -> tuple[list[float], list[float], str]:
        """Compare the values, then return our times, JAX's times, and the form of JAX's loop."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        problem = self.make()
        leaves = [x.requires_grad_() for x in problem.leaves]
        incoming = [torch.randn_like(x) for x in problem.ours()]

        def ours() -> tuple[Tensor, ...]:
            outputs = problem.ours()
            return *outputs, *torch.autograd.grad(outputs, leaves, incoming)

        arguments, cotangents = (
            tuple(jnp.asarray(x.detach().numpy()) for x in xs) for xs in ((*leaves, *problem.data), incoming)
        )
        forms: dict[str, Step] = {}
        for name, loop in problem.theirs.items():
            run = loops.with_gradients(loop, len(leaves))
            forms[name] = lambda run=run: jax.block_until_ready(run(arguments, cotangents))
        for step in forms.values():
            check(ours(), step())
        times = dict(zip(forms, in_turn(*forms.values(), rounds=3), strict=True))
        best = min(times, key=lambda form: min(times[form]))
        return *in_turn(ours, forms[best], rounds=ROUNDS), best


def check(ours: tuple[Tensor, ...], theirs: tuple[jax.Array, ...]) -> None:
    """Compare the norms of results, since both sides round in single precision at each of some hundred steps."""
    for a, b in zip(ours, theirs, strict=True):
        b = torch.from_numpy(jax.device_get(b).copy())
        difference = float((a.detach() - b).norm() / b.norm())
        assert difference < 1e-4, difference


def flow_case(q: int, units: int, G: int = 13, M: int = 299) -> Problem:
    """Return the flow of an ODE2VAE training step: G networks drawn from their posterior, with a trajectory each."""
    Z, shapes = 2 * q, [(units, 2 * q), (units, units), (q, units)]
    weights = [x for out, n in shapes for x in (torch.randn(G, out, n) / n**0.5, torch.randn(G, 1, out) / n**0.5)]
    z0, dt = torch.randn(G, 1, Z), torch.full((M, G, 1, 1), 0.1)
    W = flow.Weights(*weights)
    return Problem([z0, *weights], [dt], lambda: flow.run(z0, W, dt, "rk4", "tanh"), {
        f"{name}, trace {'after' if after else 'in'} the scan": loops.flow(times, 1, after)
        for name, times in loops.PRODUCTS.items() for after in (False, True)
    })  # fmt: skip


def sde_case(depth: int, P: int = 32, Z: int = 8, units: int = 64, M: int = 100) -> Problem:
    """Return the loop of a VSDN-SDE training step: networks of prior and posterior, with paths of the posterior."""
    G, L = 2, depth - 1

    def uniform(*shape: int) -> Tensor:
        return torch.empty(shape).uniform_(-(shape[-1] ** -0.5), shape[-1] ** -0.5)

    A, V, c = uniform(G, units, Z), uniform(G, 2 * Z, units), uniform(G, 1, 2 * Z)
    hidden, biases = [uniform(G, units, units) for _ in range(L)], [uniform(G, 1, units) for _ in range(L)]
    x0, pre, noise = torch.randn(P, Z), torch.randn(M, G, P, units), torch.randn(M, P, Z)
    dt, informed = torch.full((M, P, 1), 0.25), torch.ones(M, P, 1)
    weights, shape = sde_loop.Weights(A, tuple(hidden), tuple(biases), V, c), sde_loop.Shape(BOUND, LOW, HIGH, (1,))
    return Problem(
        [x0, pre, A, V, c, *hidden, *biases], [dt, noise, informed],
        lambda: sde_loop.run(x0, pre, weights, dt, noise, shape, informed),
        {
            f"{name}, {unroll} steps per iteration": loops.sde(times, unroll, BOUND, LOW, HIGH)
            for name, times in loops.PRODUCTS.items() for unroll in (1, 4)
        },
    )  # fmt: skip


def recurrence_case(B: int, H: int, M: int, share: float, R: int = 2) -> Problem:
    """Return GRU-ODE's loop in R directions over B sequences, with a fraction `share` of the steps observed."""
    shapes = [*GruFlow.shapes(R, H).values(), (R, 3 * H, H), (R, 1, 3 * H)]
    weights = [torch.empty(shape).uniform_(-(H**-0.5), H**-0.5) for shape in shapes]
    h0, x, dt = torch.zeros(R, B, H), torch.randn(M, R, B, 3 * H), torch.full((M, R, B, 1), 0.2)
    observe = (torch.rand(M, R, B, 1) < share).float()
    update = weights[-2], weights[-1]
    return Problem(
        [h0, x, *weights], [dt, observe],
        lambda: recurrence.run(h0, x, GruFlow, weights[:-2], update, dt, observe),
        {f"{unroll} steps per iteration": loops.recurrence(loops.PRODUCTS["dot"], unroll) for unroll in (1, 4)},
    )  # fmt: skip


ALL = [
    Case("ODE2VAE flow, 13 networks, q = 3, 30 units, 299 steps", lambda: flow_case(3, 30), 1.0),
    Case("ODE2VAE flow, 13 networks, q = 16, 100 units, 299 steps", lambda: flow_case(16, 100), 1.0),
    Case("VSDN-SDE loop, 32 paths, latent 8, 64 units, depth 1, 100 steps", lambda: sde_case(1), 1.0),
    Case("VSDN-SDE loop, 32 paths, latent 8, 64 units, depth 2, 100 steps", lambda: sde_case(2), 1.0),
    Case(
        "recurrence, 2 x 32 sequences, 256 units, 100 steps, a quarter observed",
        lambda: recurrence_case(32, 256, 100, 0.25),
    ),
    Case(
        "recurrence, 2 x 32 sequences, 256 units, 100 steps, all observed", lambda: recurrence_case(32, 256, 100, 1.0)
    ),
]
