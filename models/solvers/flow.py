"""The loop of ODE2VAE: fixed Runge-Kutta steps through a small network's field, with a hand-derived backward.

Each of G networks f = W3 a(W2 a(W1 z + b1) + b2) + b3 drives P trajectories z. f gives the derivatives of all but the
first `lead` components. These are the position s of z = (s, v), with ds/dt = v; `lead` = 0 makes it a first-order
field.

Autograd would record some twenty nodes a stage. Here the forward pass keeps the states and activations of all stages;
the backward pass computes all slopes at once, runs a loop of three matrix products a stage, and forms each weight
gradient as one product after it. The activations are outputs too, so that other functions of them (the trace of the
field, for the density) are one batched formula outside the loop, differentiated by autograd.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import weight_gradient

FixedMethod = Literal["rk4", "midpoint"]
ActivationName = Literal["tanh", "elu", "relu"]


class Weights(NamedTuple):
    """Weights of G networks with one input for each of the Z components of a state and O = Z - lead outputs."""

    W1: Tensor
    """[G, H, Z]"""
    b1: Tensor
    """[G, 1, H]"""
    W2: Tensor
    """[G, H, H]"""
    b2: Tensor
    """[G, 1, H]"""
    W3: Tensor
    """[G, O, H]"""
    b3: Tensor
    """[G, 1, O]"""

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


class Stages(NamedTuple):
    """Trajectories through M steps of R stages, with the networks' activations."""

    states: Tensor
    """[M, G, P, Z] states at the end of each step."""
    a1: Tensor
    """[M, R, G, P, H] outputs of the first hidden layer at each stage."""
    a2: Tensor
    """[M, R, G, P, H] outputs of the second hidden layer at each stage."""


def run(z0: Tensor, weights: Weights, dt: Tensor, method: FixedMethod, activation: ActivationName) -> Stages:
    """Integrate from z0 [G, P, Z] in M steps of lengths dt [M, G, P, 1], which are data and get no gradient."""
    with torch.autocast(z0.device.type, enabled=False):  # solver state keeps its precision
        return Stages(*_Flow.apply(z0, *weights, dt, TABLEAUS[method], ACTIVATIONS[activation]))


class _Flow(torch.autograd.Function):
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
    """Return a view of x [M, R, ...] for each stage: indexing in the loop would take as long as the arithmetic."""
    return x.flatten(0, 1).unbind()
