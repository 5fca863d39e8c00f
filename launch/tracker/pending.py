"""Metrics of a training, kept back until a checkpoint covers them.

A tracker takes no point back. Points of steps that a killed training takes again, with other settings perhaps, would
stand in the dashboard beside those of the steps that replaced them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from launch.tracker.tracking import Tracker, now_ms


class Point(NamedTuple):
    metrics: dict[str, float]
    step: int
    at_ms: int
    """Time at which the values were taken, in milliseconds since 1970."""


class PendingMetrics:
    """Metrics since the last checkpoint; `release` hands them to the tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._points: list[Point] = []

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep the values of a step, with the time that it is now."""
        self._points.append(Point({key: float(value) for key, value in metrics.items()}, step, now_ms()))

    def state(self) -> list[Any]:
        """Return the points that a checkpoint written now covers, as JSON can hold them: the process may end between
        its commit and `release`."""
        return [list(point) for point in self._points]

    def restore(self, state: list[Any]) -> None:
        """Hand over what a checkpoint covers; the tracker ignores what it already has."""
        self._points = [Point(*point) for point in state]
        self.release()

    def release(self) -> None:
        """Hand all points to the tracker: a checkpoint that covers them is committed."""
        for metrics, step, at_ms in self._points:
            self._tracker.metrics(metrics, step, at_ms)
        self._points = []
