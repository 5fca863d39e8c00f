"""Measure the time of each phase of a step.

A phase that begins inside another one interrupts it, so that the phases add up to the total time. On a GPU an event
marks the beginning of a phase in the stream; nothing waits for it until `seconds` is read, every tenth step.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import torch

_Mark = float | torch.cuda.Event


class _Lap(NamedTuple):
    phase: str
    began: _Mark
    ended: _Mark


class StepTimer:
    """A timer of phases: `with timer(phase)` adds the seconds inside to the phase."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._laps: list[_Lap] = []
        self._phases: list[str] = []
        self._began: _Mark = 0.0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._turn()
        self._phases.append(phase)
        try:
            yield
        finally:
            self._turn()
            self._phases.pop()

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its calls timed as a phase."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self(phase):
                return function(*args, **kwargs)

        return call

    @property
    def phase(self) -> str | None:
        """The innermost current phase."""
        return self._phases[-1] if self._phases else None

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call."""
        found: dict[str, float] = {}
        for phase, began, ended in self._laps:
            found[phase] = found.get(phase, 0.0) + _between(began, ended)
        self._laps = []
        return found

    def _turn(self) -> None:
        now = self._mark()
        if self._phases:
            self._laps.append(_Lap(self._phases[-1], self._began, now))
        self._began = now

    def _mark(self) -> _Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(began: Any, ended: Any) -> float:
    if isinstance(began, float):
        return float(ended - began)
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000
