"""Checks of the two forms of a loop on a CPU: `run_eager` and `run_compiled` of its module."""

import torch

from tests import rounding


def assert_both_match(loop, formula, results):
    """Assert that both forms equal `formula` up to rounding. `results` maps a form to its outputs and gradients."""
    bounds, expected = rounding.bounds(lambda: results(formula)), results(formula)
    for form in (loop.run_eager, loop.run_compiled):
        for x, y, atol in zip(results(form), expected, bounds, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=atol)


def assert_repeats(loop, case, results):
    """Assert that the compiled form repeats bit for bit, with and without gradients, and return its results."""
    first, again = (results(loop.run_compiled) for _ in range(2))
    with torch.no_grad():
        plain = loop.run_compiled(*case)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(first, plain, strict=False))
    return first


def with_non_finite(loop, case, leaves, value):
    """Yield each output of the eager and of the compiled form, for each leaf with `value` as its first number."""
    for changed in leaves:
        with torch.no_grad():
            before = changed.view(-1)[0].item()
            changed.view(-1)[0] = value
            eager, compiled = loop.run_eager(*case), loop.run_compiled(*case)
            changed.view(-1)[0] = before
        yield from zip(eager, compiled, strict=True)
