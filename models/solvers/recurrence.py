"""The loop over time that cannot be parallelised, with a hand-derived backward: a state that flows between observations
and jumps at them.

Between observations the state takes an Euler step of a flow, h' = h + dt f(h) (`gru_flow`, `mlp_flow`), and at an
observation, whose input has been projected for all times beforehand (x = A y + a),
    [r, z, n] of a GRU cell with recurrent part u = U h' + d,   h'' = h' + m (1 - z) (n - h'),
with m = 1 where the sequence has an observation and 0 elsewhere.

Two forms compute the same up to rounding (docs/loops.md). The eager one, operations of torch, is the reference and
takes any flow. Autograd would record some thirty nodes a step; here the forward pass keeps the gates, and the backward
pass goes through blocks of steps, from the last: it computes every local slope of a block at once, runs a loop of few
matrix products a step, and forms the block's part of each weight gradient as one product. The tensors of a block stay
in cache; for two passes, 256 units and 32 sequences that is a quarter faster than all steps at once. The compiled one
(`recurrence_kernels`) is GRU-ODE in machine code, and leaves out rows that have ended or observe nothing.

R is the number of independent passes run side by side (1: forward; 2: forward and backward in time).
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import Affine
from models.solvers.choice import faster_forms
from models.solvers.gru_flow import GruFlow
from models.solvers.packing import pack, padded

COMPILED_WIDTH = 256
"""Largest number of units that the compiled form takes. Beyond it the matrix products take most of the time, and those
of torch take several cores."""
_BLOCK = 16
"""Number of steps per block of the backward pass."""


class Flow(Protocol):
    """The Euler steps h' = h + dt f(h) of one call, and their derivative.

    The forward pass calls `forward` for every step. The backward pass makes a new object from the tensors that the
    first one `kept`. For each block it calls `open`, then `backward` for the block's steps from the last, then `close`.
    """

    kept: tuple[Tensor, ...]

    def __init__(self, weights: Sequence[Tensor], dt: Tensor, kept: Sequence[Tensor] = ()) -> None:
        """Take `weights` in the order of `shapes`, step lengths `dt` [M, R, B, 1], and tensors of an earlier pass."""
        ...

    @classmethod
    def shapes(cls, R: int, H: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name."""
        ...

    def forward(self, m: int, h: Tensor, out: Tensor) -> Tensor:
        """Take step m from h [R, B, H], write the result to `out` and return it."""
        ...

    def open(self, steps: slice, start: Tensor) -> None:
        """Compute the local slopes of a block of steps, which begin at the states `start` [K, R, B, H]."""
        ...

    def backward(self, i: int, delta: Tensor) -> Tensor:
        """Return the gradient [R, B, H] before the block's i-th step, given the gradient `delta` after it."""
        ...

    def close(self) -> None:
        """Add the block's contribution to `gradients`."""
        ...

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        """Gradients of the weights, in the order of `shapes`."""
        ...


def run(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor], dt: Tensor,
    observe: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute the trajectories of R passes over B sequences in M steps.

    Args:
        h0: [R, B, H] initial state.
        x: [M, R, B, 3H] projected inputs; read only where `observe` is not 0.
        flow, weights: see `Flow`. update: U [R, 3H, H], recurrent part r, z, n, and d [R, 1, 3H].
        dt: [M, R, B, 1] step lengths. observe: [M, R, B, 1] 1 where the step ends at an observation, else 0.

    Returns:
        before [M, R, B, H], the state at the end of each step and just before its observation, and
        after [M, R, B, H], the state just after it (equal to `before` where there is none).
    """
    form = run_compiled if faster_forms() and compiles(h0, x, flow, weights, update) else run_eager
    with torch.autocast(h0.device.type, enabled=False):  # solver state keeps its precision
        return form(h0, x, flow, weights, update, dt, observe)


def compiles(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor]
) -> bool:  # fmt: skip
    """Return whether the compiled form covers this flow and these tensors, and is the faster one."""
    covered = all(y.device.type == "cpu" and y.dtype == torch.float32 for y in (h0, x, *weights, *update))
    return flow is GruFlow and covered and h0.shape[2] <= COMPILED_WIDTH and _kernels() is not None


def run_eager(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor], dt: Tensor,
    observe: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute in operations of torch, on any device, in any precision and with any flow."""
    before, after = _Eager.apply(h0, x, dt, observe, *update, flow, *weights)
    return before, after


def run_compiled(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor], dt: Tensor,
    observe: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute in machine code, in float32 on a CPU, with the flow of GRU-ODE."""
    before, after = _Compiled.apply(h0, x, dt, observe, *update, *weights)
    return before, after


@functools.cache
def _kernels() -> ModuleType | None:
    """Return the compiled loop, or None where numba is not installed."""
    try:
        from models.solvers import recurrence_kernels  # numba takes half a second to load
    except ImportError:
        return None
    return recurrence_kernels


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, h0: Tensor, x: Tensor, dt: Tensor, observe: Tensor, U: Tensor, d: Tensor, W: Tensor,
        b: Tensor, V: Tensor, c: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kernels = _kernels()
        assert kernels is not None
        H = h0.shape[2]
        order, count = _order(dt, observe)
        plan = kernels.Plan(*_arrays(dt[..., 0], observe[..., 0], order, count))
        # Blocks of rows of each pass [R]: steps, and updates.
        used = [-(-rows // kernels.ROWS) for rows in (count, observe[..., 0].count_nonzero(2).T)]
        T, S = ([int(blocks.sum()) for blocks in of_pass] for of_pass in used)
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        shapes = [(T, 1), (T, 2), (T, 1), (T, 1), (S, 1), (S, 3), (S, 1)]
        kept = [h0.new_empty(sum(blocks) if keep else 1, kernels.ROWS, n * padded(H)) for blocks, n in shapes]
        states = [h0.new_empty(*dt.shape[:3], H) for _ in range(2)]
        W, V, U = (_by_gate(weight, H) for weight in (W, V, U))
        b, c, d = (_by_gate(bias.mT, H)[..., 0] for bias in (b, c, d))
        net = kernels.Networks(*_arrays(pack(W.mT), b, pack(V.mT), c, pack(U.mT), d))
        kernels.forward(*_arrays(h0, x), net, plan, *_arrays(*states), kernels.Rows(*_arrays(*kept)), keep)
        ctx.save_for_backward(W, V, U, *kept)
        ctx.made = plan, T, S  # type: ignore[attr-defined]
        return states[0], states[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_before: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        assert kernels is not None
        W, V, U, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        plan, T, S = ctx.made  # type: ignore[attr-defined]
        (start, zr, rh, g, before, u, _), (M, R, B, H) = kept, d_after.shape
        none = W.new_zeros(R, 1)
        d_h0, d_x, d = W.new_empty(R, B, H), W.new_zeros(M, R, B, 3 * H), [torch.empty_like(y) for y in (zr, g, u)]
        net = kernels.Networks(*_arrays(pack(W), none, pack(V), none, pack(U), none))
        kernels.backward(
            net, plan, kernels.Rows(*_arrays(*kept)), *_arrays(d_before, d_after, d_h0, d_x),
            kernels.Gradients(*_arrays(*d)),
        )  # fmt: skip
        d_W, d_b = _gradients(d[0], start, T, H)
        d_V, d_c = _gradients(d[1], rh, T, H)
        d_U, d_d = _gradients(d[2], before, S, H)
        return d_h0, d_x, None, None, d_U, d_d, d_W, d_b, d_V, d_c


def _order(dt: Tensor, observe: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sequences [R, B] of each pass, those with most steps first, and how many are left at a step [R, M]."""
    active = ((dt != 0) | (observe != 0))[..., 0]
    step = torch.arange(len(dt))
    length = (active * (step + 1)[:, None, None]).amax(0)
    return length.argsort(dim=1, descending=True, stable=True), (length[:, None] > step[:, None]).sum(2)


def _by_gate(weight: Tensor, H: int) -> Tensor:
    """Return a weight [R, gates x H, n] with the rows of each gate padded to whole vectors."""
    return F.pad(weight.detach().unflatten(1, (-1, H)), (0, 0, 0, padded(H) - H)).flatten(1, 2)


def _gradients(d_out: Tensor, inputs: Tensor, blocks: list[int], H: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of weights [R, gates x H, H] and biases [R, 1, gates x H] from the blocks of all passes."""
    found = []
    for of_out, of_in in zip(d_out.split(blocks), inputs.split(blocks), strict=True):
        of_out = of_out.flatten(0, 1)
        found.append((of_out.mT @ of_in.flatten(0, 1), of_out.sum(0)))
    weight, bias = (torch.stack(parts) for parts in zip(*found, strict=True))
    gates = (-1, padded(H))
    return weight.unflatten(1, gates)[:, :, :H, :H].flatten(1, 2), bias.unflatten(1, gates)[..., :H].flatten(1)[:, None]


def _arrays(*tensors: Tensor) -> list[NDArray[np.float32]]:
    return [x.detach().contiguous().numpy() for x in tensors]


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, h0: Tensor, x: Tensor, dt: Tensor, observe: Tensor, U: Tensor, d: Tensor, kind: type[Flow],
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        M, (R, B, H) = dt.shape[0], h0.shape
        # Which steps need no update is a number to wait for, which only a CPU has at hand.
        updates = observe.flatten(1).any(1).tolist() if h0.device.type == "cpu" else [True] * M
        before, after = (h0.new_empty(M, R, B, H) for _ in range(2))
        flow, update = kind(weights, dt), _Update(U, d, observe, all(updates))
        h = h0
        for m in range(M):
            h = flow.forward(m, h, before[m])
            h = update.forward(m, h, x[m], after[m]) if updates[m] else after[m].copy_(h)
        ctx.save_for_backward(h0, dt, observe, U, d, before, after, *update.kept, *weights, *flow.kept)
        ctx.kind, ctx.updates, ctx.weights = kind, updates, len(weights)  # type: ignore[attr-defined]
        return before, after

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_before: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        h0, dt, observe, U, d, before, after, rzu, n, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        updates, split = ctx.updates, ctx.weights  # type: ignore[attr-defined]
        flow: Flow = ctx.kind(rest[:split], dt, rest[split:])  # type: ignore[attr-defined]
        update = _Update(U, d, observe, kept=(rzu, n))
        d_x = torch.empty_like(rzu)
        delta = torch.zeros_like(h0)
        for end in range(len(dt), 0, -_BLOCK):
            steps = slice(max(end - _BLOCK, 0), end)
            first = h0 if steps.start == 0 else after[steps.start - 1]
            flow.open(steps, torch.cat([first[None], after[steps.start : end - 1]]))
            update.open(steps, before[steps])
            for m in reversed(range(steps.start, end)):
                i = m - steps.start
                delta = update.backward(i, delta + d_after[m], updates[m])
                delta = flow.backward(i, delta + d_before[m])
            flow.close()
            update.close(d_x[steps])
        return delta, d_x, None, None, *update.recurrent.gradients, None, *flow.gradients


class _Update:
    """The GRU cell at an observation, differentiated block by block like a `Flow`."""

    def __init__(
        self, U: Tensor, d: Tensor, observe: Tensor, everywhere: bool = True, kept: tuple[Tensor, ...] = ()
    ) -> None:
        self.recurrent, self.observe = Affine(U, d), observe
        self.H = H = U.shape[2]
        if not kept:  # entries that are not computed must be finite: their slope is multiplied by m = 0
            new = observe.new_empty if everywhere else observe.new_zeros
            M, R, B, _ = observe.shape
            kept = new(M, R, B, 3 * H), new(M, R, B, H)
        self.rzu, self.n = self.kept = kept
        """[M, R, B, 3H] the gates r, z and the recurrent part of n; [M, R, B, H] the candidate n."""

    def forward(self, m: int, h: Tensor, x: Tensor, out: Tensor) -> Tensor:
        H = self.H
        u, n = self.recurrent(h, out=self.rzu[m]), self.n[m]
        r, z = u[..., : 2 * H].add_(x[..., : 2 * H]).sigmoid_().chunk(2, -1)
        torch.addcmul(x[..., 2 * H :], r, u[..., 2 * H :], out=n).tanh_()
        jump = (n - h).mul_(self.observe[m])
        return torch.add(h, jump.addcmul_(jump, z, value=-1), out=out)

    def open(self, steps: slice, before: Tensor) -> None:
        r, z, un = self.rzu[steps].chunk(3, -1)
        n, observe = self.n[steps], self.observe[steps]
        toward = observe * (1 - z)
        self.before, self.stay = before, 1 - toward
        self.n_slope = toward * (1 - n * n)
        self.u_slope = torch.stack(
            [self.n_slope * un * r * (1 - r), observe * (before - n) * z * (1 - z), self.n_slope * r], -2
        )
        self.d_u, self.d_n = torch.empty_like(self.u_slope), torch.empty_like(n)

    def backward(self, i: int, delta: Tensor, observed: bool) -> Tensor:
        torch.mul(delta, self.n_slope[i], out=self.d_n[i])
        d_u = torch.mul(delta[..., None, :], self.u_slope[i], out=self.d_u[i])
        return self.recurrent.back_onto(delta * self.stay[i], d_u.flatten(-2)) if observed else delta

    def close(self, d_x: Tensor) -> None:
        d_u = self.d_u.flatten(-2)
        d_x[..., : 2 * self.H] = d_u[..., : 2 * self.H]
        d_x[..., 2 * self.H :] = self.d_n
        self.recurrent.accumulate(d_u, self.before)
