"""Loops over time on a GPU in few launches: blocks of steps, captured once and replayed.

A block is the loop's own arithmetic over 64 or 16 steps, forward or backward, on buffers with fixed addresses. A
loop of any length is a chain of blocks. After a block is replayed, one operation copies its results out and the next
block's inputs in. All lengths share the buffers of a batch size and of the networks' shapes.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.gpu import graphs
from models.solvers.gpu.graphs import CaptureError, one_line

SIZES = (64, 16)
"""Numbers of steps of a block, from the largest. Lengths are padded to multiples of the smallest."""
MOST = 8
"""Maximum number of batch sizes and networks whose blocks are kept, and of other functions that are kept. The least
recently used one is dropped."""
DTYPES = {torch.float32}
"""Precisions that are replayed. A particle filter computes in double precision, in stretches of few steps."""

Tensors = Sequence[Tensor]


class Loop(Hashable, Protocol):
    """Steps over time as functions of tensors [steps, ...]. A step whose data are 0 must not change the state."""

    @property
    def returned(self) -> int:
        """Number of results that the caller needs; the others serve only the backward pass."""
        ...

    @property
    def state(self) -> int:
        """Index of the result that is the state after each step."""
        ...

    def forward(self, constants: Tensors, state: Tensor, inputs: Tensors, data: Tensors) -> list[Tensor]:
        """Return the results of all steps from a state.

        Args:
            constants: tensors that are the same in every step, such as weights; differentiable.
            inputs: tensors of each step, differentiable. data: tensors of each step, without gradients.
        """
        ...

    def backward(
        self, constants: Tensors, start: Tensor, data: Tensors, results: Tensors, delta: Tensor, incoming: Tensors
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the gradients of the state before the steps, of the inputs, and of the constants.

        Args:
            start: the state before the steps. results: the results of `forward`.
            delta: gradient of the state after the steps, from later steps. incoming: gradients of the returned results.
        """
        ...


def covers(state: Tensor) -> bool:
    """Return whether a loop with this state can be replayed."""
    return state.device.type in graphs.CAPTURES and state.dtype in DTYPES


def run(loop: Loop, constants: Tensors, state: Tensor, inputs: Tensors, data: Tensors) -> tuple[Tensor, ...]:
    """Return the `returned` results of all steps, differentiable with respect to state, inputs and constants."""
    M, count = len(data[0]), (len(constants), len(inputs))
    padding = -M % SIZES[-1]
    if padding:  # by steps that change nothing
        inputs, data = ([F.pad(x, (0, 0) * (x.ndim - 1) + (0, padding)) for x in group] for group in (inputs, data))
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (state, *constants, *inputs))
    results: tuple[Tensor, ...] = _Replayed.apply(loop, count, keep, state, *constants, *inputs, *data)
    return tuple(x[:M] for x in results) if padding else results


def call(function: Callable[[Tensors], Sequence[Tensor]], key: Hashable, arguments: Tensors) -> list[Tensor]:
    """Call a function without gradients, which is captured once, and return its results.

    Args:
        key: identifier of the function, in addition to the shapes of its arguments.
    """
    key = key, *(x.shape for x in arguments), arguments[0].device
    with _capturing(_calls), torch.no_grad():
        block = _kept(_calls, key, lambda: _Block(function, arguments))
    torch._foreach_copy_(block.arguments, list(arguments))
    block.replay()
    return [x.clone() for x in block.results]


class _Block:
    """A captured function: its buffers for arguments, its results, and the replay."""

    def __init__(self, function: Callable[[Tensors], Sequence[Tensor]], arguments: Tensors) -> None:
        self.arguments = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in arguments]
        self.results: Sequence[Tensor] = ()

        def work() -> None:
            self.results = function(self.arguments)

        self.replay = graphs.CAPTURES[arguments[0].device.type](work, arguments[0].device)


class _Bucket:
    """The blocks of a loop for one batch size, which share the buffers of constants and of their gradients."""

    def __init__(self, loop: Loop, constants: Tensors) -> None:
        self.loop = loop
        self.constants = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in constants]
        self.gradients = [torch.zeros_like(x) for x in self.constants]
        self.blocks: dict[tuple[str, int], _Block] = {}

    def forward(self, state: Tensor, inputs: Tensors, data: Tensors) -> _Block:
        """Return the forward block for arguments of these shapes: state, inputs and data."""
        split = 1 + len(inputs)

        def function(arguments: Tensors) -> Sequence[Tensor]:
            return self.loop.forward(self.constants, arguments[0], arguments[1:split], arguments[split:])

        return self._made("forward", function, (state, *inputs, *data))

    def backward(self, state: Tensor, data: Tensors, results: Tensors) -> _Block:
        """Return the backward block for arguments of these shapes: start, delta, data, results, and gradients of the
        returned results. Its results are the gradients of state and inputs; it adds to `gradients`."""
        ends = 2 + len(data), 2 + len(data) + len(results)

        def function(arguments: Tensors) -> Sequence[Tensor]:
            of_data, of_results, incoming = arguments[2 : ends[0]], arguments[ends[0] : ends[1]], arguments[ends[1] :]
            start, delta = arguments[:2]
            delta, d_inputs, found = self.loop.backward(self.constants, start, of_data, of_results, delta, incoming)
            torch._foreach_add_(self.gradients, found)
            return delta, *d_inputs

        return self._made("backward", function, (state, state, *data, *results, *results[: self.loop.returned]))

    def _made(
        self, name: str, function: Callable[[Tensors], Sequence[Tensor]], arguments: Tensors
    ) -> _Block:  # fmt: skip
        key = name, len(arguments[-1])
        if key not in self.blocks:
            self.blocks[key] = _Block(function, arguments)
        return self.blocks[key]


_buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()
_calls: OrderedDict[Hashable, _Block] = OrderedDict()

Kept = TypeVar("Kept")


def _kept(cache: OrderedDict[Hashable, Kept], key: Hashable, make: Callable[[], Kept]) -> Kept:
    """Return the entry of a cache, or make it. The least recently used entry is dropped."""
    if key not in cache:
        cache[key] = make()
    cache.move_to_end(key)
    while len(cache) > MOST:
        cache.popitem(last=False)
    return cache[key]


@contextmanager
def _capturing(cache: OrderedDict[Hashable, Kept]) -> Iterator[None]:
    """Make blocks, which outlive an evaluation. If that fails, drop all that the cache has, to free their memory."""
    try:
        with torch.inference_mode(False):
            yield
    except Exception as error:  # whatever a compiler or driver raises
        cache.clear()
        raise CaptureError(one_line(error)) from error


def _bucket(loop: Loop, constants: Tensors, state: Tensor, inputs: Tensors, data: Tensors) -> _Bucket:
    shapes = *(x.shape for x in (*constants, state)), *(x.shape[1:] for x in (*inputs, *data))
    key = loop, shapes, state.device, state.dtype, torch.backends.cuda.matmul.allow_tf32
    return _kept(_buckets, key, lambda: _Bucket(loop, constants))


def _spans(steps: int) -> list[slice]:
    """Return the steps of each block of a loop, the largest block first."""
    spans: list[slice] = []
    for size in SIZES:
        while spans[-1].stop + size <= steps if spans else size <= steps:
            start = spans[-1].stop if spans else 0
            spans.append(slice(start, start + size))
    return spans


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, loop: Loop, count: tuple[int, int], keep: bool, start: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:  # fmt: skip
        tensors = tuple(x.contiguous() for x in tensors)
        constants, steps = tensors[: count[0]], tensors[count[0] :]
        inputs, data = steps[: count[1]], steps[count[1] :]
        with _capturing(_buckets):
            bucket, spans = _bucket(loop, constants, start, inputs, data), _spans(len(data[0]))
            of = [[x[span] for x in steps] for span in spans]
            blocks = [bucket.forward(start, x[: count[1]], x[count[1] :]) for x in of]
            if keep:  # captured now: a backward pass runs in a thread of its own
                for x, block in zip(of, blocks, strict=True):
                    bucket.backward(start, x[count[1] :], block.results)
        kept = blocks[0].results if keep else blocks[0].results[: loop.returned]
        results = [x.new_empty(len(data[0]), *x.shape[1:]) for x in kept]
        torch._foreach_copy_([*bucket.constants, *blocks[0].arguments], [*constants, start, *of[0]])
        for i, (block, span) in enumerate(zip(blocks, spans, strict=True)):
            block.replay()
            to, source = [x[span] for x in results], list(block.results[: len(results)])
            if i + 1 < len(blocks):
                to += blocks[i + 1].arguments
                source += [block.results[loop.state][-1], *of[i + 1]]
            torch._foreach_copy_(to, source)
        if keep:
            ctx.save_for_backward(start, *constants, *data, *results)
            shapes = [x.shape for x in inputs]
            ctx.of = loop, bucket, len(constants), len(data), shapes  # type: ignore[attr-defined]
        return tuple(results[: loop.returned])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *incoming: Tensor) -> tuple[Tensor | None, ...]:
        loop, bucket, *counts, shapes = ctx.of  # type: ignore[attr-defined]
        start, *saved = ctx.saved_tensors  # type: ignore[attr-defined]
        ends = counts[0], sum(counts)
        constants, data, results = saved[: ends[0]], saved[ends[0] : ends[1]], saved[ends[1] :]
        steps = [*data, *results, *(x.contiguous() for x in incoming)]
        spans, states = _spans(len(data[0]))[::-1], results[loop.state]
        of = [[states[s.start - 1] if s.start else start, *(x[s] for x in steps)] for s in spans]
        blocks = [bucket.blocks["backward", s.stop - s.start] for s in spans]
        d_start, d_inputs = torch.empty_like(start), [start.new_empty(shape) for shape in shapes]
        d_constants = [torch.empty_like(x) for x in constants]
        first, delta, *rest = blocks[0].arguments
        torch._foreach_zero_([delta, *bucket.gradients])
        torch._foreach_copy_([*bucket.constants, first, *rest], [*constants, *of[0]])
        for i, (block, span) in enumerate(zip(blocks, spans, strict=True)):
            block.replay()
            to, source = [x[span] for x in d_inputs], list(block.results[1:])
            if i + 1 < len(blocks):
                first, *rest = of[i + 1]
                to += blocks[i + 1].arguments
                source += [first, block.results[0], *rest]
            else:
                to += [d_start, *d_constants]
                source += [block.results[0], *bucket.gradients]
            torch._foreach_copy_(to, source)
        return None, None, None, d_start, *d_constants, *d_inputs, *[None] * len(data)
