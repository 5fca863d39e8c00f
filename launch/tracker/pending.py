"""Keep metrics of a training until a checkpoint covers them.

A tracker cannot delete points. Points of steps that a killed training repeats, perhaps with other settings, would
appear in the dashboard beside those of the repeated steps.
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
        """Store the values of a step with the current time."""
        self._points.append(Point({key: float(value) for key, value in metrics.items()}, step, now_ms()))

    def state(self) -> list[Any]:
        """Return the points that a checkpoint written now covers, as JSON. The process may end between the commit of
        the checkpoint and `release`."""
        return [list(point) for point in self._points]

    def restore(self, state: list[Any]) -> None:
        """Log the points that a checkpoint covers; the tracker ignores those that it already has."""
        self._points = [Point(*point) for point in state]
        self.release()

    def release(self) -> None:
        """Log all points, after a checkpoint that covers them was committed."""
        for metrics, step, at_ms in self._points:
            self._tracker.metrics(metrics, step, at_ms)
        self._points = []
