"""Cache of intermediate results that several methods compute for one batch, such as its recurrent states.

`density`, `predict` and `interpolate` each begin with the same loop over time. Inside `shared` it runs once per batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_KEPT: ContextVar[dict[Any, tuple[Any, Any]] | None] = ContextVar("kept", default=None)


@contextmanager
def shared() -> Iterator[None]:
    """Keep the results of functions marked with `once` until the end of the block.

    Neither weights nor batches may change within the block, and no result may be differentiated."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def once(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compute a function only once inside `shared` for equal arguments.

    Numbers and names are compared by value, tuples item by item, and everything else, such as tensors, by identity."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        kept = _KEPT.get()
        if kept is None:
            return function(*args, **kwargs)
        key = function, _identity(args), _identity(tuple(kwargs.items()))
        if key not in kept:
            kept[key] = function(*args, **kwargs), (args, kwargs)  # holds them, so that no other gets their identity
        found: _R = kept[key][0]
        return found

    return call


def _identity(x: object) -> object:
    if isinstance(x, tuple):
        return tuple(map(_identity, x))
    return x if isinstance(x, int | str) else id(x)
