"""Check a fast form of a loop at its first use on a device, with the current batch.

This code was written without a GPU. A form that does not compile on one, or does not agree with the reference, is
turned off for the rest of the process, and reported: by a warning, or by the function given to `report_to`. So is a
form that cannot be captured for a later batch of another size.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from models.solvers.gpu.graphs import CaptureError, one_line

Form = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Result = TypeVar("Result")

_TOLERANCE = 1e-3
"""Largest difference, as a fraction of the largest absolute value of the same tensor. It distinguishes a wrong kernel
from rounding, which grows over hundreds of steps."""
_found: dict[Hashable, bool] = {}


def _warn(name: str, problem: str) -> None:
    warnings.warn(f"{name} is turned off, and a slower form is used: {problem}", stacklevel=4)


_report: Callable[[str, str], None] = _warn


def report_to(report: Callable[[str, str], None]) -> None:
    """Call `report(name, problem)` from now on for each form that is turned off, instead of a warning."""
    global _report
    _report = report


def attempt(
    name: str, key: Hashable, fast: Form, reference: Form, inputs: Sequence[Tensor], call: Callable[[], Result]
) -> Result | None:
    """Return the result of `call`, which uses the fast form, or None if that form is turned off; see `trusted`."""
    if not trusted(name, key, fast, reference, inputs):
        return None
    try:
        return call()
    except CaptureError as error:
        _found[name, key] = False
        _report(name, str(error))
        return None


def trusted(name: str, key: Hashable, fast: Form, reference: Form, inputs: Sequence[Tensor]) -> bool:
    """Return whether the fast form may be used for inputs like these: it agreed with the reference at its first use.

    Args:
        name: name of the form, for the log.
        key: properties that the form is compiled for. The form is checked once per key.
        inputs: arguments of the forms; gradients of those with floating-point numbers are also compared.
    """
    if (name, key) not in _found:
        problem = _problem(fast, reference, inputs)
        _found[name, key] = problem is None
        if problem is not None:
            _report(name, problem)
    return _found[name, key]


def _problem(fast: Form, reference: Form, inputs: Sequence[Tensor]) -> str | None:
    """Return the fault of the fast form in one line, or None if it agrees with the reference."""
    try:
        found, expected = (_with_gradients(form, inputs) for form in (fast, reference))
    except Exception as error:  # whatever a compiler or driver raises
        return one_line(error)
    for number, (x, y) in enumerate(zip(found, expected, strict=True)):
        finite = y.isfinite()
        bound = _TOLERANCE * torch.where(finite, y, 0.0).abs().max()
        difference = torch.where(finite, x - y, 0.0).abs().max()
        if not bool(difference <= bound):
            return f"result {number} differs by {float(difference):.3g}, more than {float(bound):.3g}"
    return None


@torch.inference_mode(False)  # the first use may be in an evaluation
@torch.enable_grad()
def _with_gradients(form: Form, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]  # of inference, they could not
    outputs, differentiable = form(leaves), [x for x in leaves if x.requires_grad]
    if not differentiable:
        return list(outputs)
    gradients = torch.autograd.grad([x.sum() for x in outputs], differentiable)
    return [x.detach() for x in (*outputs, *gradients)]
