"""The one loop that cannot be parallelised: GRU-ODE flow and observation update, with a hand-derived backward.

Between observations (Euler step of length dt; GRU-ODE-Bayes, eq. 6, input-free cell)
    [z, r] = sigmoid(W h + b),   g = tanh(V (r h) + c),   h' = h + dt (1 - z) (g - h)
and at an observation, whose input has been projected for all times beforehand (x = A y + a),
    [r, z, n] of a GRU cell with recurrent part u = U h' + d,   h'' = h' + m (1 - z) (n - h'),
m = 1 where the sequence observes and 0 elsewhere.

Autograd would record some thirty nodes a step. Here the forward pass keeps the gates; the backward pass computes every
local slope for all steps at once, runs a loop of three matrix products a step, and forms each weight gradient as one
product after it.

R is the number of independent passes run side by side (1: forward; 2: forward and backward in time).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class Weights(NamedTuple):
    """Stacked over R; see the formulas above."""

    W: Tensor
    """[R, 2H, H] gates z, r of the flow."""
    b: Tensor
    """[R, 1, 2H]"""
    V: Tensor
    """[R, H, H] candidate of the flow."""
    c: Tensor
    """[R, 1, H]"""
    U: Tensor
    """[R, 3H, H] recurrent part r, z, n of the update."""
    d: Tensor
    """[R, 1, 3H]"""


def run(h0: Tensor, x: Tensor, weights: Weights, dt: Tensor, observe: Tensor) -> tuple[Tensor, Tensor]:
    """Trajectories of R passes over B sequences in M steps.

    Args:
        h0: [R, B, H] initial state.
        x: [M, R, B, 3H] projected inputs; read only where `observe` is not 0.
        dt: [M, R, B, 1] step lengths. observe: [M, R, B, 1] 1 where the step ends at an observation, else 0.

    Returns:
        before [M, R, B, H], the state at the end of each step and just before its observation, and
        after [M, R, B, H], the state just after it (equal to `before` where there is none).
    """
    with torch.autocast(h0.device.type, enabled=False):  # solver state keeps its precision
        before, after = _Recurrence.apply(h0, x, *weights, dt, observe)
    return before, after


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, h0: Tensor, x: Tensor, W: Tensor, b: Tensor, V: Tensor, c: Tensor, U: Tensor, d: Tensor,
        dt: Tensor, observe: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        M, (R, B, H) = dt.shape[0], h0.shape
        updates = observe.flatten(1).any(1).tolist()
        Wt, Vt, Ut = (w.transpose(1, 2).contiguous() for w in (W, V, U))
        before, after, g, rh, n = (h0.new_empty(M, R, B, H) for _ in range(5))
        zr, gates = h0.new_empty(M, R, B, 2 * H), h0.new_empty(M, R, B, 2 * H)
        un = h0.new_zeros(M, R, B, H)
        if not all(updates):  # what is not computed must still be finite: its slope is multiplied by m = 0
            gates.zero_()
            n.zero_()
        h = h0
        for m in range(M):
            z_r = torch.baddbmm(b, h, Wt, out=zr[m]).sigmoid_()
            torch.mul(z_r[..., H:], h, out=rh[m])
            torch.baddbmm(c, rh[m], Vt, out=g[m]).tanh_()
            slope = (g[m] - h).mul_(dt[m])
            h = torch.add(h, slope.addcmul_(slope, z_r[..., :H], value=-1), out=before[m])
            if updates[m]:
                u = torch.baddbmm(d, h, Ut)
                torch.add(u[..., : 2 * H], x[m][..., : 2 * H], out=gates[m]).sigmoid_()
                un[m].copy_(u[..., 2 * H :])
                torch.addcmul(x[m][..., 2 * H :], gates[m][..., :H], un[m], out=n[m]).tanh_()
                jump = (n[m] - h).mul_(observe[m])
                h = torch.add(h, jump.addcmul_(jump, gates[m][..., H:], value=-1), out=after[m])
            else:
                h = after[m].copy_(h)
        ctx.save_for_backward(h0, W, V, U, dt, observe, before, after, zr, g, rh, gates, n, un)
        ctx.updates = updates  # type: ignore[attr-defined]
        return before, after

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_before: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        h0, W, V, U, dt, observe, before, after, zr, g, rh, gates, n, un = ctx.saved_tensors  # type: ignore[attr-defined]
        updates = ctx.updates  # type: ignore[attr-defined]
        M, R, B, H = before.shape
        start = torch.cat([h0[None], after[:-1]])  # state at the beginning of each step
        d_zr, d_c, d_u, d_n = (
            torch.empty_like(zr),
            torch.empty_like(g),
            g.new_empty(M, R, B, 3 * H),
            torch.empty_like(g),
        )
        delta = torch.zeros_like(h0)
        flow = _flow_slopes(start, dt, zr, g)
        jump = _update_slopes(before, observe, gates, n, un)
        for m in reversed(range(M)):
            delta = delta + d_after[m]
            torch.mul(delta, jump.n[m], out=d_n[m])
            torch.mul(delta.repeat(1, 1, 3), jump.u[m], out=d_u[m])
            if updates[m]:
                delta = torch.baddbmm(delta * jump.stay[m], d_u[m], U)
            delta = delta + d_before[m]
            torch.mul(delta, flow.g[m], out=d_c[m])
            d_rh = torch.bmm(d_c[m], V)
            torch.mul(delta, flow.z[m], out=d_zr[m][..., :H])
            torch.mul(d_rh, flow.r[m], out=d_zr[m][..., H:])
            delta = torch.baddbmm((delta * flow.stay[m]).addcmul_(d_rh, zr[m][..., H:]), d_zr[m], W)
        d_x = torch.cat([d_u[..., : 2 * H], d_n], -1)
        d_W, d_b = _weight_gradient(d_zr, start)
        d_V, d_bias_c = _weight_gradient(d_c, rh)
        d_U, d_d = _weight_gradient(d_u, before)
        return delta, d_x, d_W, d_b, d_V, d_bias_c, d_U, d_d, None, None


class _FlowSlopes(NamedTuple):
    """Of h' in the pre-activations of g and z and in h itself, and of r h in the pre-activation of r."""

    g: Tensor
    z: Tensor
    stay: Tensor
    r: Tensor


def _flow_slopes(h: Tensor, dt: Tensor, zr: Tensor, g: Tensor) -> _FlowSlopes:
    z, r = zr.chunk(2, -1)
    toward = dt * (1 - z)
    return _FlowSlopes(toward * (1 - g * g), dt * (h - g) * z * (1 - z), 1 - toward, h * r * (1 - r))


class _UpdateSlopes(NamedTuple):
    """Of h'' in the pre-activation of n, in the recurrent part u of all three, and in h' itself."""

    n: Tensor
    u: Tensor
    stay: Tensor


def _update_slopes(h: Tensor, observe: Tensor, gates: Tensor, n: Tensor, un: Tensor) -> _UpdateSlopes:
    r, z = gates.chunk(2, -1)
    toward = observe * (1 - z)
    to_n = toward * (1 - n * n)
    to_u = torch.cat([to_n * un * r * (1 - r), observe * (h - n) * z * (1 - z), to_n * r], -1)
    return _UpdateSlopes(to_n, to_u, 1 - toward)


def _weight_gradient(d_out: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over steps and sequences of the outer products: [R, out, in], and of the bias: [R, 1, out]."""
    R = d_out.shape[1]
    d_out = d_out.transpose(0, 1).reshape(R, -1, d_out.shape[-1])
    inputs = inputs.transpose(0, 1).reshape(R, -1, inputs.shape[-1])
    return torch.bmm(d_out.transpose(1, 2), inputs), d_out.sum(1, keepdim=True)
