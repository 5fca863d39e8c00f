"""The loop of VSDN-SDE: Euler-Maruyama steps through small networks' drifts, with a hand-derived backward pass.

G networks of the same shape are run side by side on the same state x. Network 0 gives the prior's drift and the
diffusion, which both share. Network 1, if present, gives the posterior's drift (half of its outputs are not read). At
step m
    a_1 = elu(p[m] + A x),   a_l = elu(W_l a_(l-1) + b_l),   u = V a_L + c        [G, P, 2 Z]
    drift   = bound * sum_g s_g tanh(u_g[:Z]) - x
    R       = low + (high - low) sigmoid(u_0[Z:])
    x'      = x + dt drift + sqrt(dt) R epsilon
with p[m] the part of the first layer that does not depend on the state, computed for all steps beforehand, and s_g, 0
or 1, whether network g drives the path in this step. The drift pulls towards a bounded target, so that no path
diverges, whatever the networks' outputs; the diffusion is bounded away from 0.

Two forms compute the same up to rounding (docs/loops.md). The eager one, operations of torch, is the reference.
Autograd would record some thirty nodes a step; here the forward pass keeps the activations, and the backward pass
computes all slopes at once, runs a loop of one matrix product a layer, and forms each weight gradient as one product
after it. The compiled one (`sde_kernels`) takes a block of paths through all steps in machine code.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import weight_gradient
from models.solvers.choice import faster_forms
from models.solvers.flow import ACTIVATIONS
from models.solvers.packing import arrays, pack, pad, padded

_ELU = ACTIVATIONS["elu"]
COMPILED_WIDTH = 256
"""Largest number of units of a hidden layer for the compiled form. Beyond it matrix products take most of the time, and
those of torch are as fast and use several cores."""


class Weights(NamedTuple):
    """Weights of G networks with L hidden layers of W units."""

    A: Tensor
    """[G, W, Z] weights of the first layer for the state."""
    hidden: tuple[Tensor, ...]
    """Weights of the later hidden layers, L - 1 tensors [G, W, W]."""
    biases: tuple[Tensor, ...]
    """Biases of the later hidden layers, L - 1 tensors [G, 1, W]."""
    V: Tensor
    """[G, 2 Z, W] weights of the output."""
    c: Tensor
    """[G, 1, 2 Z] biases of the output."""


class Shape(NamedTuple):
    """Bounds of drift and diffusion, and the networks that drive the state."""

    bound: float
    """Largest absolute value of each component of a drift's target."""
    low: float
    """Smallest diffusion, > 0."""
    high: float
    """Largest diffusion."""
    driver: tuple[int, ...]
    """Networks that drive the state: (0,) the prior, (1,) the posterior, (0, 1) the posterior as prior plus
    difference."""

    def shares(self, informed: Tensor | None) -> list[tuple[int, Tensor | float]]:
        """Return (g, s_g) for each network that drives a path. Where `informed` [M, P, 1] is 0, only the prior does."""
        if informed is None or self.driver == (0,):
            return [(g, 1.0) for g in self.driver]
        return [(0, 1.0 if 0 in self.driver else 1 - informed), (1, informed)]

    def target(self, u: Tensor, informed: Tensor | None = None) -> Tensor:
        """Return the drift's target, drift + x, [M, P, Z], from the networks' outputs u [M, G, P, 2 Z]."""
        Z = u.shape[-1] // 2
        pulls = [share * u[:, g, :, :Z].tanh() for g, share in self.shares(informed)]
        return self.bound * (pulls[0] if len(pulls) == 1 else pulls[0] + pulls[1])

    def diffusion(self, u: Tensor) -> Tensor:
        """Return the diffusion R [M, P, Z]."""
        Z = u.shape[-1] // 2
        return self.low + (self.high - self.low) * u[:, 0, :, Z:].sigmoid()


class Paths(NamedTuple):
    """P paths through M steps."""

    states: Tensor
    """[M, P, Z] states at the end of each step."""
    outputs: Tensor
    """[M, G, P, 2 Z] outputs u of the networks at the start of each step."""


def run(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve for P paths in M steps.

    Args:
        x0: [P, Z]. pre: [M, G, P, W] part of the first layer that does not depend on the state, bias included.
        dt: [M, P, 1] step lengths, 0 where a path has ended. noise: [M, P, Z] standard normal. Neither gets a gradient.
        informed: [M, P, 1] 1 where the posterior may drive a path, 0 where the prior replaces it; None means 1.
    """
    form = run_compiled if faster_forms() and compiles(x0, pre, weights) else run_eager
    with torch.autocast(x0.device.type, enabled=False):  # solver state keeps its precision
        return form(x0, pre, weights, dt, noise, shape, informed)


def compiles(x0: Tensor, pre: Tensor, weights: Weights) -> bool:
    """Return whether the compiled form supports these tensors and is the faster one."""
    tensors = (x0, pre, weights.A, *weights.hidden, *weights.biases, weights.V, weights.c)
    covered = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
    return covered and pre.shape[-1] <= COMPILED_WIDTH and _kernels() is not None


def run_eager(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve in operations of torch, on any device and in any precision."""
    return _apply(_Loop, x0, pre, weights, dt, noise, shape, informed)


def run_compiled(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve in machine code, in float32 on a CPU."""
    return _apply(_Compiled, x0, pre, weights, dt, noise, shape, informed)


def _apply(
    form: type[torch.autograd.Function], x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor,
    shape: Shape, informed: Tensor | None,
) -> Paths:  # fmt: skip
    informed = dt.new_ones(()) if informed is None else informed
    layers = (weights.A, weights.V, weights.c, *weights.hidden, *weights.biases)
    return Paths(*form.apply(shape, dt, noise, informed, x0, pre, *layers))


@functools.cache
def _kernels() -> ModuleType | None:
    """Return the compiled loop, or None if numba is not installed."""
    try:
        from models.solvers import sde_kernels  # numba takes half a second to load
    except ImportError:
        return None
    return sde_kernels


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, shape: Shape, dt: Tensor, noise: Tensor, informed: Tensor, x0: Tensor, pre: Tensor,
        A: Tensor, V: Tensor, c: Tensor, *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kernels = _kernels()
        assert kernels is not None
        (M, G, P, W), Z, L = pre.shape, x0.shape[1], len(layers) // 2 + 1
        hidden, biases = layers[: L - 1], layers[L - 1 :]
        states, u = x0.new_empty(M, P, Z), x0.new_empty(M, G, P, 2 * Z)
        steps = M if any(ctx.needs_input_grad) else 1  # type: ignore[attr-defined]
        blocks = -(-P // kernels.ROWS)
        starts = x0.new_zeros(blocks, steps, kernels.ROWS, padded(Z))
        kept = x0.new_empty(L, G, blocks, steps, kernels.ROWS, padded(W))
        inner, inner_biases = (
            _stacked(pack, [w.mT for w in hidden], A),
            _stacked(pad, [b[:, 0] for b in biases], c[:, 0]),
        )
        net = kernels.Networks(*arrays(pack(A.mT), inner, inner_biases, pack(V.mT), pad(c[:, 0])))
        stay, gains, low, high = _coefficients(dt, noise, shape, informed)
        driver = np.array([g for g, _ in gains])
        gain = torch.stack([gain.expand(M, P, 1)[..., 0] for _, gain in gains])
        taken = kernels.Steps(*arrays(stay.expand(M, P, 1)[..., 0]), driver, *arrays(gain, low, high))
        kernels.forward(*arrays(x0, pre), net, taken, *arrays(states, u, starts, kept))
        ctx.save_for_backward(A, V, u, starts, kept, *hidden)
        ctx.steps = taken  # type: ignore[attr-defined]
        return states, u

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        assert kernels is not None
        A, V, u, starts, a, *hidden = ctx.saved_tensors  # type: ignore[attr-defined]
        (M, G, P, _), (L, _, blocks, _, rows, _), (W, Z) = u.shape, a.shape, A.shape[1:]
        net = kernels.Networks(
            *arrays(pack(A), _stacked(pack, hidden, A), a.new_zeros(0, G, 1), pack(V), a.new_zeros(G, 1))
        )
        d_x0, d_a, d_u = a.new_empty(P, Z), torch.empty_like(a), a.new_empty(G, blocks, M, rows, padded(2 * Z))
        kernels.backward(
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
            None, None, None, None, d_x0, d_pre, d_A[:, :W, :Z], d_V[:, : 2 * Z, :W], d_c[..., : 2 * Z],
            *(w[:, :W, :W] for w, _ in d_hidden), *(b[..., :W] for _, b in d_hidden),
        )  # fmt: skip


def _stacked(form: Callable[[Tensor], Tensor], layers: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the layers after the first as one tensor [L - 1, G, ...], each converted by `form`."""
    return form(torch.stack(tuple(layers))) if layers else form(like)[None][:0]


class _Loop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, shape: Shape, dt: Tensor, noise: Tensor, informed: Tensor, x0: Tensor, pre: Tensor,
        A: Tensor, V: Tensor, c: Tensor, *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (M, G, P, W), Z, L = pre.shape, x0.shape[1], len(layers) // 2
        At, Vt, hidden = A.mT.contiguous(), V.mT.contiguous(), [w.mT.contiguous() for w in layers[:L]]
        states, u = x0.new_empty(M, P, Z), x0.new_empty(M, G, P, 2 * Z)
        kept = M if any(ctx.needs_input_grad) else 1  # type: ignore[attr-defined]
        a = [x0.new_empty(kept, G, P, W) for _ in range(L + 1)]
        target, s = x0.new_empty(kept, G, P, Z), x0.new_empty(kept, P, Z)
        stay, gains, low, high = _coefficients(dt, noise, shape, informed)
        drift, spread = u[..., :Z], u[:, 0, :, Z:]
        x = x0
        for m in range(M):
            k = m % kept
            y = _ELU.apply_(torch.baddbmm(pre[m], x.expand(G, P, Z), At, out=a[0][k]))
            for weight, bias, out in zip(hidden, layers[L:], a[1:], strict=True):
                y = _ELU.apply_(torch.baddbmm(bias, y, weight, out=out[k]))
            torch.baddbmm(c, y, Vt, out=u[m])
            torch.tanh(drift[m], out=target[k])
            x = torch.addcmul(low[m], stay[m], x, out=states[m])
            for g, gain in gains:
                x.addcmul_(gain[m], target[k, g])
            x.addcmul_(high[m], torch.sigmoid(spread[m], out=s[k]))
        if kept == M:
            ctx.save_for_backward(A, V, dt, noise, informed, x0, states, target, s, *layers[:L], *a)
            ctx.shape = shape  # type: ignore[attr-defined]
        return states, u

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        A, V, dt, noise, informed, x0, states, target, s, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        L, shape = (len(rest) - 1) // 2, ctx.shape  # type: ignore[attr-defined]
        hidden, a = rest[:L], rest[L:]
        M, G, P, W = a[0].shape
        Z = x0.shape[1]
        stay, gains, _, high = _coefficients(dt, noise, shape, informed)
        to_spread = high * s * (1 - s)
        to_drift = [(g, gain * (1 - target[:, g].square())) for g, gain in gains]
        d_a = [_ELU.slope(x) for x in a]  # times the gradient below: the gradient of the activations' arguments
        d_u = d_outputs.clone()
        d_drift, d_spread = d_u[..., :Z], d_u[:, 0, :, Z:]
        delta = torch.zeros_like(x0)
        for m in reversed(range(M)):
            delta = delta + d_states[m]
            for g, slope in to_drift:
                d_drift[m, g].addcmul_(slope[m], delta)
            d_spread[m].addcmul_(to_spread[m], delta)
            d = d_a[L][m].mul_(torch.bmm(d_u[m], V))
            for layer in reversed(range(L)):
                d = d_a[layer][m].mul_(torch.bmm(d, hidden[layer]))
            delta = torch.bmm(d, A).sum(0).addcmul_(stay[m], delta)
        starts = torch.cat([x0[None], states[:-1]])[:, None].expand(M, G, P, Z)
        d_A, _ = weight_gradient(d_a[0], starts)
        d_V, d_c = weight_gradient(d_u, a[L])
        d_hidden = [weight_gradient(d_a[i + 1], a[i]) for i in range(L)]
        return (
            None,
            None,
            None,
            None,
            delta,
            d_a[0],
            d_A,
            d_V,
            d_c,
            *(w for w, _ in d_hidden),
            *(b for _, b in d_hidden),
        )


def _coefficients(
    dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor
) -> tuple[Tensor, list[tuple[int, Tensor]], Tensor, Tensor]:
    """Return (stay, gains, low, high) of the step x' = stay x + sum_g gain_g tanh(u_g[:Z]) + low + high
    sigmoid(u_0[Z:])."""
    kick, gain = dt.sqrt() * noise, shape.bound * dt
    gains = [(g, gain * share) for g, share in shape.shares(informed)]
    return 1 - dt, gains, shape.low * kick, (shape.high - shape.low) * kick
