"""The sequential loop over time, with a hand-derived backward pass: a state flows between observations and jumps at
them.

Between observations the state takes an Euler step of a flow, h' = h + dt f(h) (`gru_flow`, `mlp_flow`), and at an
observation, whose input has been projected for all times beforehand (x = A y + a),
    [r, z, n] of a GRU cell with recurrent part u = U h' + d,   h'' = h' + m (1 - z) (n - h'),
with m = 1 where the sequence has an observation and 0 elsewhere.

Three forms compute the same up to rounding (docs/loops.md). The eager one, operations of torch, is the reference and
takes any flow. Autograd would record some thirty nodes per step; here the forward pass keeps the gates. The backward
pass goes through blocks of steps, from the last: it computes every local slope of a block at once, runs a loop of few
matrix products per step, and forms the block's part of each weight gradient as one product. The tensors of a block stay
in cache; for two passes, 256 units and 32 sequences that is a quarter faster than all steps at once. The compiled one
(`recurrence_kernels`) is GRU-ODE in machine code, and leaves out rows that have ended or observe nothing. On a GPU
blocks of the eager one are captured and replayed (`gpu/replay`).

R is the number of independent passes run side by side (1: forward; 2: forward and backward in time).
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.choice import faster_forms
from models.solvers.gpu import first_use, replay
from models.solvers.gpu.fused_gru import FusedGruFlow, FusedGruUpdate
from models.solvers.gpu.replay import Tensors
from models.solvers.gru_flow import GruFlow, GruUpdate
from models.solvers.packing import arrays, by_gate, pack, padded

COMPILED_WIDTH = 256
"""Largest number of units for the compiled form. Beyond it matrix products take most of the time, and those of torch
use several cores."""
_BLOCK = 16
"""Number of steps per block of the backward pass."""


class Flow(Protocol):
    """The Euler steps h' = h + dt f(h) of one call, and their derivative.

    The forward pass calls `forward` for every step. The backward pass makes a new object from the tensors `kept` by the
    first one. For each block it calls `open`, then `backward` for the block's steps from the last, then `close`.
    """

    kept: tuple[Tensor, ...]

    def __init__(self, weights: Sequence[Tensor], dt: Tensor, kept: Sequence[Tensor] = ()) -> None:
        """Initialise with `weights` in the order of `shapes`, step lengths `dt` [M, R, B, 1], and an earlier pass's
        tensors `kept`."""
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

    def backward(self, i: int, delta: Tensor, incoming: Tensor) -> Tensor:
        """Return the gradient [R, B, H] before the block's i-th step. The one after it is `delta + incoming`."""
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
    with torch.autocast(h0.device.type, enabled=False):  # solver state keeps its precision
        arguments, found = (h0, x, flow, weights, update, dt, observe), None
        if faster_forms() and compiles(h0, x, flow, weights, update):
            return run_compiled(*arguments)
        if faster_forms() and replay.covers(h0):
            fast, eager = (functools.partial(_of_tensors, f, flow, dt, observe) for f in (run_replayed, run_eager))
            key, leaves = (h0.device, h0.shape[2], flow), (h0, x, *update, *weights)
            found = first_use.attempt("replayed recurrence", key, fast, eager, leaves, lambda: run_replayed(*arguments))
        return run_eager(*arguments) if found is None else found


def compiles(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor]
) -> bool:  # fmt: skip
    """Return whether the compiled form supports this flow and these tensors, and is the faster one."""
    covered = all(y.device.type == "cpu" and y.dtype == torch.float32 for y in (h0, x, *weights, *update))
    return flow is GruFlow and covered and h0.shape[2] <= COMPILED_WIDTH and _kernels() is not None


def run_eager(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor], dt: Tensor,
    observe: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute in operations of torch, on any device, in any precision and with any flow."""
    before, after = _Eager.apply(h0, x, dt, observe, GruLoop(flow), *update, *weights)
    return before, after


def run_compiled(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor], dt: Tensor,
    observe: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute in machine code, in float32 on a CPU, with the flow of GRU-ODE."""
    before, after = _Compiled.apply(h0, x, dt, observe, *update, *weights)
    return before, after


def run_replayed(
    h0: Tensor, x: Tensor, flow: type[Flow], weights: Sequence[Tensor], update: tuple[Tensor, Tensor], dt: Tensor,
    observe: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute in blocks of steps that are captured and replayed, on a GPU."""
    loop = GruLoop(FusedGruFlow if flow is GruFlow else flow, FusedGruUpdate)
    before, after = replay.run(loop, (*update, *weights), h0, (x,), (dt, observe))
    return before, after


def _of_tensors(
    form: Callable[..., tuple[Tensor, Tensor]], flow: type[Flow], dt: Tensor, observe: Tensor, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run a form on h0, x, U, d and the flow's weights, differentiable even if `dt` was made in inference."""
    h0, x, U, d, *weights = tensors
    return form(h0, x, flow, weights, (U, d), dt.clone(), observe.clone())


@functools.cache
def _kernels() -> ModuleType | None:
    """Return the compiled loop, or None if numba is not installed."""
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
        plan = kernels.Plan(*arrays(dt[..., 0], observe[..., 0], order, count))
        # Blocks of rows of each pass [R]: steps, and updates.
        used = [-(-rows // kernels.ROWS) for rows in (count, observe[..., 0].count_nonzero(2).T)]
        T, S = ([int(blocks.sum()) for blocks in of_pass] for of_pass in used)
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        shapes = [(T, 1), (T, 2), (T, 1), (T, 1), (S, 1), (S, 3), (S, 1)]
        kept = [h0.new_empty(sum(blocks) if keep else 1, kernels.ROWS, n * padded(H)) for blocks, n in shapes]
        states = [h0.new_empty(*dt.shape[:3], H) for _ in range(2)]
        W, V, U = (by_gate(weight, H) for weight in (W, V, U))
        b, c, d = (by_gate(bias.mT, H)[..., 0] for bias in (b, c, d))
        net = kernels.Networks(*arrays(pack(W.mT), b, pack(V.mT), c, pack(U.mT), d))
        kernels.forward(*arrays(h0, x), net, plan, *arrays(*states), kernels.Rows(*arrays(*kept)), keep)
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
        net = kernels.Networks(*arrays(pack(W), none, pack(V), none, pack(U), none))
        kernels.backward(
            net, plan, kernels.Rows(*arrays(*kept)), *arrays(d_before, d_after, d_h0, d_x),
            kernels.Gradients(*arrays(*d)),
        )  # fmt: skip
        d_W, d_b = _gradients(d[0], start, T, H)
        d_V, d_c = _gradients(d[1], rh, T, H)
        d_U, d_d = _gradients(d[2], before, S, H)
        return d_h0, d_x, None, None, d_U, d_d, d_W, d_b, d_V, d_c


def _order(dt: Tensor, observe: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sequences [R, B] of each pass, those with most steps first, and the number left at a step [R, M]."""
    active = ((dt != 0) | (observe != 0))[..., 0]
    step = torch.arange(len(dt))
    length = (active * (step + 1)[:, None, None]).amax(0)
    return length.argsort(dim=1, descending=True, stable=True), (length[:, None] > step[:, None]).sum(2)


def _gradients(d_out: Tensor, inputs: Tensor, blocks: list[int], H: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of weights [R, gates x H, H] and biases [R, 1, gates x H] from the blocks of all passes."""
    found = []
    for of_out, of_in in zip(d_out.split(blocks), inputs.split(blocks), strict=True):
        of_out = of_out.flatten(0, 1)
        found.append((of_out.mT @ of_in.flatten(0, 1), of_out.sum(0)))
    weight, bias = (torch.stack(parts) for parts in zip(*found, strict=True))
    gates = (-1, padded(H))
    return weight.unflatten(1, gates)[:, :, :H, :H].flatten(1, 2), bias.unflatten(1, gates)[..., :H].flatten(1)[:, None]


class GruLoop(NamedTuple):
    """The loop in operations of torch, as a `replay.Loop` with constants U, d and the flow's weights, input x, and data
    dt and observe. Where `updates` is false, no sequence observes anything."""

    kind: type[Flow]
    update: type[GruUpdate] = GruUpdate

    @property
    def state(self) -> int:
        return 1

    @property
    def returned(self) -> int:
        return 2

    def forward(
        self, constants: Tensors, h: Tensor, inputs: Tensors, data: Tensors, updates: list[bool] | None = None
    ) -> list[Tensor]:  # fmt: skip
        (U, d, *weights), (x,), (dt, observe) = constants, inputs, data
        before, after = (h.new_empty(len(dt), *h.shape) for _ in range(2))
        flow, update = self.kind(weights, dt), self.update(U, d, observe, updates is None or all(updates))
        for m in range(len(dt)):
            h = flow.forward(m, h, before[m])
            h = update.forward(m, h, x[m], after[m]) if updates is None or updates[m] else after[m].copy_(h)
        return [before, after, *update.kept, *flow.kept]

    def backward(
        self, constants: Tensors, start: Tensor, data: Tensors, results: Tensors, delta: Tensor, incoming: Tensors,
        updates: list[bool] | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
        (U, d, *weights), (dt, observe), (d_before, d_after) = constants, data, incoming
        before, after, rzu, n, *kept = results
        flow, update = self.kind(weights, dt, kept), self.update(U, d, observe, kept=(rzu, n))
        d_x = torch.empty_like(rzu)
        for end in range(len(dt), 0, -_BLOCK):
            block = slice(max(end - _BLOCK, 0), end)
            first = start if block.start == 0 else after[block.start - 1]
            flow.open(block, torch.cat([first[None], after[block.start : end - 1]]))
            update.open(block, before[block])
            for m in reversed(range(block.start, end)):
                i = m - block.start
                delta = update.backward(i, delta, d_after[m], updates is None or updates[m])
                delta = flow.backward(i, delta, d_before[m])
            flow.close()
            update.close(d_x[block])
        return delta, [d_x], [*update.recurrent.gradients, *flow.gradients]


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, h0: Tensor, x: Tensor, dt: Tensor, observe: Tensor, loop: GruLoop, *constants: Tensor
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # Which steps need no update is a number to wait for, which only a CPU has at hand.
        updates = observe.flatten(1).any(1).tolist() if h0.device.type == "cpu" else None
        results = loop.forward(constants, h0, (x,), (dt, observe), updates)
        ctx.save_for_backward(h0, dt, observe, *results, *constants)
        ctx.loop, ctx.updates, ctx.constants = loop, updates, len(constants)  # type: ignore[attr-defined]
        return results[0], results[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_before: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
        loop, updates, split = ctx.loop, ctx.updates, ctx.constants  # type: ignore[attr-defined]
        h0, dt, observe, *rest = ctx.saved_tensors  # type: ignore[attr-defined]
        results, constants = rest[:-split], rest[-split:]
        delta, (d_x,), gradients = loop.backward(
            constants, h0, (dt, observe), results, torch.zeros_like(h0), (d_before, d_after), updates
        )
        return delta, d_x, None, None, None, *gradients
