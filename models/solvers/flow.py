"""The loop of ODE2VAE: fixed Runge-Kutta steps through a small network's field, and the trace of its Jacobian.

Each of G networks f = W3 a(W2 a(W1 z + b1) + b2) + b3 drives P trajectories z. f gives the derivatives of all but the
first `lead` components. These are the position s of z = (s, v), with ds/dt = v. With `lead` = 0 the field is of first
order.

Along the flow d log q(z_t) / dt = -tr(df/dv) (instantaneous change of variables, Chen et al., 2018). With slopes a1',
a2' of the hidden layers
    tr(df/dv) = a2'^T K a1',   K = W2 o (W1v W3)^T,   W1v the columns of W1 that read v (all, in a first-order field),
which takes one small matrix per network and one product per stage, where autograd takes a backward pass for each
component of v.

Three forms compute the same up to rounding (docs/loops.md). The eager one is the reference. It keeps the states and
activations of all stages; its backward pass computes all slopes at once, runs a loop of three matrix products per
stage, and forms each weight gradient as one product after it. The compiled one (`flow_kernels`) takes each trajectory
through all of its steps in machine code, and the trace with it. The fused one (`gpu/fused_flow`) does so in a GPU
kernel.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import by_network, weight_gradient
from models.solvers.choice import faster_forms
from models.solvers.gpu import first_use, fused_flow
from models.solvers.packing import arrays, pack, pad, padded

FixedMethod = Literal["rk4", "midpoint"]
ActivationName = Literal["tanh", "elu", "relu"]


class Weights(NamedTuple):
    """Weights of G networks with one input for each of the Z components of a state and O = Z - lead outputs."""

    W1: Tensor
    """[G, H, Z] weights of the first layer."""
    b1: Tensor
    """[G, 1, H] biases of the first layer."""
    W2: Tensor
    """[G, H, H] weights of the second layer."""
    b2: Tensor
    """[G, 1, H] biases of the second layer."""
    W3: Tensor
    """[G, O, H] weights of the output."""
    b3: Tensor
    """[G, 1, O] biases of the output."""

    @property
    def lead(self) -> int:
        """Number of components of a state without an output of their own: the positions."""
        return self.W1.shape[2] - self.W3.shape[1]


class Activation(NamedTuple):
    """An activation function and its derivative."""

    apply_: Callable[[Tensor], Tensor]
    """The activation, computed in place."""
    slope: Callable[[Tensor], Tensor]
    """The derivative as a function of the activation's output."""


ACTIVATIONS: dict[ActivationName, Activation] = {
    "tanh": Activation(torch.tanh_, lambda a: 1 - a.square()),
    "elu": Activation(F.elu_, lambda a: a.clamp_max(0).add_(1)),
    "relu": Activation(torch.relu_, lambda a: (a > 0).to(a)),
}


class Tableau(NamedTuple):
    """Coefficients of a Runge-Kutta step: k_r = f(z + dt sum_j a[r][j] k_j),  z' = z + dt sum_r b[r] k_r."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


TABLEAUS: dict[FixedMethod, Tableau] = {
    # Kutta's 3/8 rule, which torchdiffeq calls rk4.
    "rk4": Tableau(((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    "midpoint": Tableau(((), (1 / 2,)), (0.0, 1.0)),
}


COMPILED_ROWS = 128
"""Largest number of trajectories of a network for the compiled form, which computes them one by one. For more, the
matrix products of torch are as fast, and use several cores."""


class Flow(NamedTuple):
    """Trajectories through M steps."""

    states: Tensor
    """[M, G, P, Z] states at the end of each step."""
    trace: Tensor
    """[M, G, P] integral of tr(df/dv) over each step, by the weights of its stages."""


def run(z0: Tensor, weights: Weights, dt: Tensor, method: FixedMethod, activation: ActivationName) -> Flow:
    """Integrate from z0 [G, P, Z] in M steps of lengths dt [M, G, P, 1], which are data and get no gradient."""
    with torch.autocast(z0.device.type, enabled=False):  # solver state and trace keep their precision
        form = run_eager
        if faster_forms() and compiles(z0, weights):
            form = run_compiled
        elif faster_forms() and fused_flow.covers(z0, weights.W2.shape[1], weights.lead):
            fused, eager = (functools.partial(_of_tensors, f, dt, method, activation) for f in (run_fused, run_eager))
            key = z0.device, z0.shape[-1], weights.W3.shape[1:], method, activation
            form = run_fused if first_use.trusted("fused flow", key, fused, eager, (z0, *weights)) else run_eager
        return form(z0, weights, dt, method, activation)


def trace_matrix(weights: Weights) -> Tensor:
    """Return K = W2 o (W1v W3)^T, [G, H, H]."""
    lead = weights.lead
    return weights.W2 * torch.bmm(weights.W1[..., lead:], weights.W3).mT


def compiles(z0: Tensor, weights: Weights) -> bool:
    """Return whether the compiled form supports these tensors and is the faster one."""
    covered = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in (z0, *weights))
    return covered and z0.shape[1] <= COMPILED_ROWS and _kernels() is not None


def run_eager(z0: Tensor, weights: Weights, dt: Tensor, method: FixedMethod, activation: ActivationName) -> Flow:
    """Integrate in operations of torch, on any device and in any precision."""
    tableau, slope = TABLEAUS[method], ACTIVATIONS[activation].slope
    states, a1, a2 = _Stages.apply(z0, *weights, dt, tableau, ACTIVATIONS[activation])
    M, R, G, P, _ = a1.shape
    product = torch.bmm(by_network(slope(a1)), trace_matrix(weights).mT)
    trace = (product * by_network(slope(a2))).sum(-1).view(G, M, R, P)
    b = torch.cat([z0.new_full((1,), c) for c in tableau.b])  # filled on the device: nothing is copied to it
    return Flow(states, torch.einsum("gmrp,r->mgp", trace, b) * dt[..., 0])


def run_compiled(z0: Tensor, weights: Weights, dt: Tensor, method: FixedMethod, activation: ActivationName) -> Flow:
    """Integrate in machine code, in float32 on a CPU."""
    return Flow(*_Compiled.apply(z0, *weights, trace_matrix(weights), dt, TABLEAUS[method], activation))


def run_fused(z0: Tensor, weights: Weights, dt: Tensor, method: FixedMethod, activation: ActivationName) -> Flow:
    """Integrate in one kernel forward and one backward, in float32 on a GPU."""
    slope = ACTIVATIONS[activation].slope
    return Flow(*fused_flow.run(z0, weights, trace_matrix(weights), dt, TABLEAUS[method], activation, slope))


def _of_tensors(
    form: Callable[..., Flow], dt: Tensor, method: FixedMethod, activation: ActivationName, tensors: Sequence[Tensor]
) -> Flow:
    """Run a form on z0 and weights. The result is differentiable even if `dt` was made in inference mode."""
    return form(tensors[0], Weights(*tensors[1:]), dt.clone(), method, activation)


@functools.cache
def _kernels() -> ModuleType | None:
    """Return the compiled loop, or None if numba is not installed."""
    try:
        from models.solvers import flow_kernels  # numba takes half a second to load
    except ImportError:
        return None
    return flow_kernels


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, z0: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, W3: Tensor, b3: Tensor, K: Tensor,
        dt: Tensor, tableau: Tableau, activation: ActivationName,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kernels = _kernels()
        assert kernels is not None
        (M, G, P, _), Z, H, R = dt.shape, z0.shape[-1], W2.shape[1], len(tableau.b)
        a = np.array([row + (0.0,) * (R - len(row)) for row in tableau.a], np.float32)
        scheme = kernels.Scheme(a, np.array(tableau.b, np.float32), kernels.KINDS[activation], Z, W3.shape[1])
        h = dt.squeeze(-1).contiguous().numpy()
        rows = M * R if any(ctx.needs_input_grad) else 1  # type: ignore[attr-defined]
        kept = [z0.new_empty(G, P, rows, padded(n)) for n in (Z, H, H, H)]
        states, trace = z0.new_empty(M, G, P, Z), z0.new_empty(M, G, P)
        layers = (pack(W1.mT), pad(b1[:, 0]), pack(W2.mT), pad(b2[:, 0]), pack(W3.mT), pad(b3[:, 0]), pack(K.mT))
        kernels.forward(
            pad(z0).numpy(), h, kernels.Network(*arrays(*layers)), scheme, *arrays(states, trace),
            kernels.Rows(*arrays(*kept)),
        )  # fmt: skip
        ctx.save_for_backward(W1, W2, W3, K, *kept)
        ctx.h, ctx.scheme, ctx.slope = h, scheme, ACTIVATIONS[activation].slope  # type: ignore[attr-defined]
        return states, trace

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_trace: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        assert kernels is not None
        W1, W2, W3, K, z, a1, a2, t = ctx.saved_tensors  # type: ignore[attr-defined]
        (G, P, N, _), (H, Z), outputs = a1.shape, W1.shape[1:], W3.shape[1]
        none = a1.new_zeros(G, a1.shape[-1])
        layers = (pack(W1), none, pack(W2), none, pack(W3), none, pack(K))
        d_z0, gradients = z.new_empty(G, P, z.shape[-1]), [torch.empty_like(x) for x in (z, a1, a2, t)]
        gradients[0] = z.new_empty(G, P, N, padded(outputs))
        kernels.backward(
            ctx.h, kernels.Network(*arrays(*layers)), ctx.scheme,  # type: ignore[attr-defined]
            kernels.Rows(*arrays(z, a1, a2, t)), *arrays(d_states.contiguous(), d_trace.contiguous(), d_z0),
            kernels.Rows(*arrays(*gradients)),
        )  # fmt: skip
        d_f, d_u1, d_u2, d_t = (x.view(G, P * N, -1) for x in gradients)
        s1 = ctx.slope(a1)  # type: ignore[attr-defined]
        z, a1, a2, s1 = (x.view(G, P * N, -1) for x in (z, a1, a2, s1))
        d_W1, d_b1 = weight_gradient(d_u1, z)
        d_W2, d_b2 = weight_gradient(d_u2, a1)
        d_W3, d_b3 = weight_gradient(d_f, a2)
        d_K, _ = weight_gradient(d_t, s1)
        return (
            d_z0[..., :Z], d_W1[:, :H, :Z], d_b1[..., :H], d_W2[:, :H, :H], d_b2[..., :H], d_W3[:, :outputs, :H],
            d_b3[..., :outputs], d_K[:, :H, :H], None, None, None,
        )  # fmt: skip


class _Stages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, z0: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, W3: Tensor, b3: Tensor,
        dt: Tensor, tableau: Tableau, activation: Activation,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        (M, R), (G, P, Z), H = (dt.shape[0], len(tableau.b)), z0.shape, W2.shape[1]
        lead = Z - W3.shape[1]
        W1t, W2t, W3t = W1.mT, W2.mT, W3.mT
        states, stages = z0.new_empty(M, G, P, Z), z0.new_empty(M, R, G, P, Z)
        a1, a2 = z0.new_empty(M, R, G, P, H), z0.new_empty(M, R, G, P, H)
        ends, h = states.unbind(), dt.unbind()
        at, v, u1, u2 = (_views(x) for x in (stages, stages[..., Z - lead :], a1, a2))
        slopes = z0.new_empty(R, G, P, Z)  # times dt
        k, k_s, k_f = slopes.unbind(), slopes[..., :lead].unbind(), slopes[..., lead:].unbind()
        z = z0
        for m in range(M):
            for r in range(R):
                i = m * R + r
                _combine(at[i], z, k, tableau.a[r])
                activation.apply_(torch.baddbmm(b1, at[i], W1t, out=u1[i]))
                activation.apply_(torch.baddbmm(b2, u1[i], W2t, out=u2[i]))
                torch.mul(v[i], h[m], out=k_s[r])
                torch.mul(torch.baddbmm(b3, u2[i], W3t), h[m], out=k_f[r])
            z = _combine(ends[m], z, k, tableau.b)
        ctx.save_for_backward(W1, W2, W3, dt, stages, a1, a2)
        ctx.tableau, ctx.activation = tableau, activation  # type: ignore[attr-defined]
        return states, a1, a2

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_a1: Tensor, d_a2: Tensor) -> tuple[Tensor | None, ...]:
        W1, W2, W3, dt, stages, a1, a2 = ctx.saved_tensors  # type: ignore[attr-defined]
        (a, b), activation = ctx.tableau, ctx.activation  # type: ignore[attr-defined]
        M, R, G, P, Z = stages.shape
        lead = Z - W3.shape[1]
        d_u1, d_u2, d_f = torch.empty_like(a1), torch.empty_like(a2), stages.new_empty(M, R, G, P, Z - lead)
        d_stage = stages.new_empty(R, G, P, Z)
        g, g_v, h = d_stage.unbind(), d_stage[..., Z - lead :].unbind(), dt.unbind()
        inputs = (activation.slope(a1), activation.slope(a2), d_a1, d_a2, d_u1, d_u2, d_f)
        slope1, slope2, from_a1, from_a2, to_u1, to_u2, to_f = (_views(x) for x in inputs)
        delta = stages.new_zeros(G, P, Z)
        for m in reversed(range(M)):
            delta = delta + d_states[m]
            for r in reversed(range(R)):
                i = m * R + r
                d_k = delta * b[r]
                for later in range(r + 1, R):
                    d_k.add_(g[later], alpha=a[later][r])
                d_k.mul_(h[m])
                to_f[i].copy_(d_k[..., lead:])
                torch.mul(torch.baddbmm(from_a2[i], to_f[i], W3), slope2[i], out=to_u2[i])
                torch.mul(torch.baddbmm(from_a1[i], to_u2[i], W2), slope1[i], out=to_u1[i])
                torch.bmm(to_u1[i], W1, out=g[r])
                g_v[r].add_(d_k[..., :lead])
            delta = delta + d_stage.sum(0)
        d_W1, d_b1 = weight_gradient(d_u1, stages)
        d_W2, d_b2 = weight_gradient(d_u2, a1)
        d_W3, d_b3 = weight_gradient(d_f, a2)
        return delta, d_W1, d_b1, d_W2, d_b2, d_W3, d_b3, None, None, None


def _combine(out: Tensor, z: Tensor, k: tuple[Tensor, ...], coefficients: tuple[float, ...]) -> Tensor:
    """Write z + sum_j coefficients[j] k_j to `out`."""
    sum_so_far = z
    for k_j, c in zip(k, coefficients, strict=False):
        if c:
            sum_so_far = torch.add(sum_so_far, k_j, alpha=c, out=out)
    return sum_so_far if sum_so_far is out else out.copy_(z)


def _views(x: Tensor) -> tuple[Tensor, ...]:
    """Return a view of x [M, R, ...] per stage, since indexing in the loop would take as long as the arithmetic."""
    return x.flatten(0, 1).unbind()
