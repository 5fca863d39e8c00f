"""How far rounding alone may move a result: roundings x condition x eps, with the condition measured on the reference.

Stochastic arithmetic (Parker, "Monte Carlo arithmetic", 1997): the reference is computed again with the result of every
operation moved by a random relative error of up to sqrt(eps), which is large against the roundings that are in it and
small enough for the response to be linear. Its change times sqrt(eps) is what errors of up to eps in every operation
make of the result: steps and condition of this very problem are in it, and the processor's kernels are not.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROUNDINGS = 64
"""Errors of eps that one operation of the reference stands for. Both sides round (2). A sum of products and a function
of the C library are off by several units in the last place, and what is tested may write an operation as several, or a
slope by the value of its function (ELU + 1, 1 - tanh^2), which cancels (8). The largest change is known from few draws
(4)."""
DRAWS = 2


class _Moved(TorchDispatchMode):
    """Every floating-point result x of an operation becomes x (1 + sqrt(eps) u), u uniform on [-1, 1]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def move(self, x: object) -> object:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        u = 2 * torch.rand(x.shape, generator=self.generator, dtype=x.dtype) - 1
        return x + x * u * torch.finfo(x.dtype).eps ** 0.5

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(result.alias_info for result in func._schema.returns):  # a view rounds nothing
            return out
        return type(out)(map(self.move, out)) if isinstance(out, tuple | list) else self.move(out)


def bounds(reference: Callable[[], Sequence[Tensor]]) -> list[float]:
    """Return what rounding may do to each tensor of the reference, as an absolute error."""
    expected = [x.detach() for x in reference()]
    change = [0.0] * len(expected)
    for seed in range(DRAWS):
        with _Moved(seed):
            moved = reference()
        change = [max(c, float((x.detach() - y).abs().max())) for c, x, y in zip(change, moved, expected, strict=True)]
    return [ROUNDINGS * c * torch.finfo(x.dtype).eps ** 0.5 for c, x in zip(change, expected, strict=True)]


def assert_equal(found: Sequence[Tensor], reference: Callable[[], Sequence[Tensor]]) -> None:
    """Assert that the found tensors are those of the reference, but for what rounding makes of either."""
    for x, y, atol in zip(found, reference(), bounds(reference), strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=0, atol=atol)
