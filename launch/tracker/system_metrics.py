"""Sample CPU, memory, disk, network and GPU of this node while a run is open.

The values are read by MLflow's monitors. MLflow's own thread around the monitors is not used, since it ends at the
first request that fails; values recorded here are sent like every other metric and survive an outage of the tracker.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Monitor(Protocol):
    def collect_metrics(self) -> None: ...

    def aggregate_metrics(self) -> Mapping[str, float]: ...

    def clear_metrics(self) -> None: ...


class SystemSampler:
    """A thread that calls `record` with the values of all `monitors` every `interval` seconds, and when closed."""

    def __init__(
        self, monitors: Sequence[Monitor], interval: float, record: Callable[[dict[str, float]], None]
    ) -> None:
        self._monitors = monitors
        self._interval = interval
        self._record = record
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()
        self._sample()  # so that a run shorter than the interval has values too

    def _sample(self) -> None:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update({f"system/{key}": value for key, value in monitor.aggregate_metrics().items()})
            monitor.clear_metrics()
        self._record(values)
