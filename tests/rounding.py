"""Bounds on rounding errors of a result: roundings x condition x eps, with the condition measured on the reference.

Stochastic arithmetic (Parker, "Monte Carlo arithmetic", 1997): the reference is computed again with the result of every
operation changed by a random relative error of up to sqrt(eps), which is large against the rounding errors in it and
small enough for the response to be linear. Its change times sqrt(eps) is the effect of errors of up to eps in every
operation. It includes the steps and the condition of this problem, but not the processor's kernels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROUNDINGS = 64
"""Number of errors of eps per operation of the reference, a product of three factors. Both sides round (2). A sum of
products and a function of the C library are off by several units in the last place, and the tested code may write an
operation as several, or a slope by the value of its function (ELU + 1, 1 - tanh^2), which cancels (8). The largest
change is estimated from few draws (4)."""
DRAWS = 2
SINGLE = 60 * 30 * torch.finfo(torch.float32).eps / 2
"""Relative error of the scores of a small model in single precision: 60 steps of 30 roundings, each of half a unit in
the last place, 1e-4. A mistake in a batch, a rank or a mask changes a score by more."""
ADAM = 1e-4
"""Error of the weights of a tiny model after at most 20 steps of Adam in single precision, at a learning rate of 3e-3.
Adam divides a gradient by its size, so that a weight with a tiny gradient moves by its rounding error: with `Moved`
around forward and backward, errors of eps in every operation move a weight by up to 5e-6, and 20 of these make 1e-4. A
wrong step moves it by 3e-3."""


class Moved(TorchDispatchMode):
    """Change every result x of an operation, of this dtype, to x (1 + sqrt(eps) u), with u uniform on [-1, 1]."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def move(self, x: object) -> object:
        if not isinstance(x, Tensor) or x.dtype != self.dtype:
            return x
        u = 2 * torch.rand(x.shape, generator=self.generator, dtype=x.dtype) - 1
        return x * (1 + u * torch.finfo(x.dtype).eps ** 0.5)  # an infinity stays one

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(result.alias_info for result in func._schema.returns):  # a view does not round
            return out
        return type(out)(map(self.move, out)) if isinstance(out, tuple | list) else self.move(out)


def bounds(reference: Callable[[], Sequence[Tensor]]) -> list[float]:
    """Return a bound on the rounding error of each tensor of the reference, as an absolute error."""
    expected = [x.detach() for x in reference()]
    change = [0.0] * len(expected)
    for seed in range(DRAWS):
        with Moved(seed, expected[0].dtype):
            moved = reference()
        change = [max(c, float((x.detach() - y).abs().max())) for c, x, y in zip(change, moved, expected, strict=True)]
    return [ROUNDINGS * c * torch.finfo(x.dtype).eps ** 0.5 for c, x in zip(change, expected, strict=True)]


def assert_equal(found: Sequence[Tensor], reference: Callable[[], Sequence[Tensor]]) -> None:
    """Assert that the found tensors equal those of the reference up to the rounding of both."""
    for x, y, atol in zip(found, reference(), bounds(reference), strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=0, atol=atol)
