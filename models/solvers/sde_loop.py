"""The loop of VSDN-SDE: Euler-Maruyama steps through small networks' drifts, with a hand-derived backward pass.

G networks of the same shape are run side by side on the same state x. Network 0 gives the prior's drift, and the
diffusion of prior and posterior. Network 1, if present, gives the posterior's drift (half of its outputs are not read).
At step m
    a_1 = elu(p[m] + A x),   a_l = elu(W_l a_(l-1) + b_l),   u = V a_L + c        [G, P, 2 Z]
    drift   = bound * sum_g s_g tanh(u_g[:Z]) - x
    R       = low + (high - low) sigmoid(u_0[Z:])
    x'      = x + dt drift + sqrt(dt) R epsilon
with p[m] the part of the first layer that does not depend on the state, computed for all steps beforehand, and s_g, 0
or 1, whether network g drives the path in this step. The drift pulls towards a bounded target, so that no path
diverges, whatever the networks' outputs; the diffusion is bounded away from 0.

Four forms compute the same up to rounding (docs/loops.md). The eager one, operations of torch, is the reference.
Autograd would record some thirty nodes per step; here the forward pass keeps the activations, and the backward pass
computes all slopes at once, runs a loop of one matrix product per layer, and forms each weight gradient as one product
after it. The compiled one (`sde_kernels`) takes a block of paths through all steps in machine code. On a GPU one kernel
takes a few paths through all steps (`gpu/fused_sde`); of many paths, blocks of the eager form are captured and replayed
(`gpu/replay`).
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import weight_gradient
from models.solvers.choice import faster_forms
from models.solvers.flow import ACTIVATIONS
from models.solvers.gpu import first_use, fused_sde, replay
from models.solvers.gpu.replay import Tensors

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
    with torch.autocast(x0.device.type, enabled=False):  # solver state keeps its precision
        arguments = x0, pre, weights, dt, noise, shape, informed
        found = None
        if faster_forms() and compiles(x0, pre, weights):
            return run_compiled(*arguments)
        if faster_forms() and fused_sde.covers(x0):
            found = _attempt("fused SDE loop", run_fused, fused_sde.rows(x0), arguments)
        if faster_forms() and replay.covers(x0) and found is None:
            found = _attempt("replayed SDE loop", run_replayed, None, arguments)
        return run_eager(*arguments) if found is None else found


def compiles(x0: Tensor, pre: Tensor, weights: Weights) -> bool:
    """Return whether the compiled form supports these tensors and is the faster one."""
    tensors = (x0, pre, weights.A, *weights.hidden, *weights.biases, weights.V, weights.c)
    covered = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)
    return covered and pre.shape[-1] <= COMPILED_WIDTH and _kernels() is not None


def run_eager(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve in operations of torch, on any device and in any precision."""
    return Paths(*_Eager.apply(shape, dt, noise, _known(informed, dt), x0, pre, *_constants(weights)))


def run_compiled(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve in machine code, in float32 on a CPU."""
    kernels = _kernels()
    assert kernels is not None
    stay, gains, low, high = _coefficients(dt, noise, shape, _known(informed, dt))
    gain = torch.stack([gain.expand_as(dt) for _, gain in gains])
    driver = [g for g, _ in gains]
    return Paths(*kernels.Compiled.apply(stay, driver, gain, low, high, x0, pre, *_constants(weights)))


def run_fused(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve in one kernel for all steps, for a few paths on a GPU."""
    scales, data = (shape.bound, shape.low, shape.high), (dt, noise, _known(informed, dt).expand_as(dt))
    return Paths(*fused_sde.Fused.apply(scales, shape.driver, *data, x0, pre, *_constants(weights)))


def run_replayed(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None = None
) -> Paths:
    """Solve in blocks of steps that are captured and replayed, on a GPU."""
    data = dt, noise, _known(informed, dt).expand_as(dt)
    return Paths(*replay.run(SdeLoop(shape), _constants(weights), x0, (pre,), data))


def _attempt(name: str, form: Callable[..., Paths], rows: int | None, arguments: tuple[Any, ...]) -> Paths | None:
    """Return the paths by a form for a GPU, or None if it is turned off; it is checked once for each `rows`."""
    x0, pre, weights, *data = arguments
    fast, eager = (functools.partial(_of_tensors, f, *data) for f in (form, run_eager))
    key, leaves = (x0.device, pre.shape[1::2], data[2], rows), (x0, pre, *_constants(weights))
    return first_use.attempt(name, key, fast, eager, leaves, lambda: form(*arguments))


def _of_tensors(
    form: Callable[..., Paths], dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor | None,
    tensors: Sequence[Tensor],
) -> Paths:  # fmt: skip
    """Run a form on x0, pre and the weights, differentiable even if data were made in inference."""
    x0, pre, A, V, c, *layers = tensors
    L = len(layers) // 2
    weights = Weights(A, tuple(layers[:L]), tuple(layers[L:]), V, c)
    return form(x0, pre, weights, dt.clone(), noise.clone(), shape, None if informed is None else informed.clone())


def _known(informed: Tensor | None, dt: Tensor) -> Tensor:
    return dt.new_ones(()) if informed is None else informed


def _constants(weights: Weights) -> tuple[Tensor, ...]:
    return weights.A, weights.V, weights.c, *weights.hidden, *weights.biases


@functools.cache
def _kernels() -> ModuleType | None:
    """Return the compiled loop, or None if numba is not installed."""
    try:
        from models.solvers import sde_kernels  # numba takes half a second to load
    except ImportError:
        return None
    return sde_kernels


class SdeLoop(NamedTuple):
    """The loop in operations of torch, as a `replay.Loop` with constants A, V, c and the layers between, input pre, and
    data dt, noise and informed."""

    shape: Shape

    @property
    def state(self) -> int:
        return 0

    @property
    def returned(self) -> int:
        return 2

    def forward(
        self, constants: Tensors, x: Tensor, inputs: Tensors, data: Tensors, keep: bool = True
    ) -> list[Tensor]:  # fmt: skip
        """Return the results of all steps. Without `keep`, the tensors for the backward pass have one step alone."""
        (A, V, c, *layers), (pre,), (dt, noise, informed) = constants, inputs, data
        (M, G, P, W), Z, L = pre.shape, x.shape[1], len(layers) // 2
        At, Vt, hidden = A.mT.contiguous(), V.mT.contiguous(), [w.mT.contiguous() for w in layers[:L]]
        states, u = x.new_empty(M, P, Z), x.new_empty(M, G, P, 2 * Z)
        kept = M if keep else 1
        a = [x.new_empty(kept, G, P, W) for _ in range(L + 1)]
        target, s = x.new_empty(kept, G, P, Z), x.new_empty(kept, P, Z)
        stay, gains, low, high = _coefficients(dt, noise, self.shape, informed)
        drift, spread = u[..., :Z], u[:, 0, :, Z:]
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
        return [states, u, target, s, *a]

    def backward(
        self, constants: Tensors, start: Tensor, data: Tensors, results: Tensors, delta: Tensor, incoming: Tensors
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        (A, V, _, *layers), (dt, noise, informed), (d_states, d_outputs) = constants, data, incoming
        states, _, target, s, *a = results
        (M, G, P, _), Z, L = a[0].shape, start.shape[1], len(layers) // 2
        hidden = layers[:L]
        stay, gains, _, high = _coefficients(dt, noise, self.shape, informed)
        to_spread = high * s * (1 - s)
        to_drift = [(g, gain * (1 - target[:, g].square())) for g, gain in gains]
        d_a = [_ELU.slope(x) for x in a]  # times the gradient below: the gradient of the activations' arguments
        d_u = d_outputs.clone()
        d_drift, d_spread = d_u[..., :Z], d_u[:, 0, :, Z:]
        for m in reversed(range(M)):
            delta = delta + d_states[m]
            for g, slope in to_drift:
                d_drift[m, g].addcmul_(slope[m], delta)
            d_spread[m].addcmul_(to_spread[m], delta)
            d = d_a[L][m].mul_(torch.bmm(d_u[m], V))
            for layer in reversed(range(L)):
                d = d_a[layer][m].mul_(torch.bmm(d, hidden[layer]))
            delta = torch.bmm(d, A).sum(0).addcmul_(stay[m], delta)
        starts = torch.cat([start[None], states[:-1]])[:, None].expand(M, G, P, Z)
        d_A, _ = weight_gradient(d_a[0], starts)
        d_V, d_c = weight_gradient(d_u, a[L])
        d_hidden = [weight_gradient(d_a[i + 1], a[i]) for i in range(L)]
        return delta, [d_a[0]], [d_A, d_V, d_c, *(w for w, _ in d_hidden), *(b for _, b in d_hidden)]


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, shape: Shape, dt: Tensor, noise: Tensor, informed: Tensor, x0: Tensor, pre: Tensor,
        *constants: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        loop, keep = SdeLoop(shape), any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        states, u, *kept = loop.forward(constants, x0, (pre,), (dt, noise, informed), keep)
        if keep:  # outputs are not needed again
            ctx.save_for_backward(x0, dt, noise, informed, states, *kept, *constants)
            ctx.loop, ctx.constants = loop, len(constants)  # type: ignore[attr-defined]
        return states, u

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        loop, split = ctx.loop, ctx.constants  # type: ignore[attr-defined]
        x0, dt, noise, informed, states, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        results, data = (states, d_outputs, *rest[:-split]), (dt, noise, informed)
        delta, (d_pre,), gradients = loop.backward(
            rest[-split:], x0, data, results, torch.zeros_like(x0), (d_states, d_outputs)
        )
        return None, None, None, None, delta, d_pre, *gradients


def _coefficients(
    dt: Tensor, noise: Tensor, shape: Shape, informed: Tensor
) -> tuple[Tensor, list[tuple[int, Tensor]], Tensor, Tensor]:
    """Return (stay, gains, low, high) of the step x' = stay x + sum_g gain_g tanh(u_g[:Z]) + low + high
    sigmoid(u_0[Z:])."""
    kick, gain = dt.sqrt() * noise, shape.bound * dt
    gains = [(g, gain * share) for g, share in shape.shares(informed)]
    return 1 - dt, gains, shape.low * kick, (shape.high - shape.low) * kick
