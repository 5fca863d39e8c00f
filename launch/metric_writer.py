"""Sends metrics in batches from a thread of its own, and keeps on disk what the tracker would not take.

A point goes queue -> tracker while the tracker answers, and queue -> spool file while it does not. The spool is sent
first as soon as the tracker answers again, by this process or by the next one that writes to the same run. A batch may
arrive twice (it was stored, but the answer was lost): a point carries its own step and time, and MLflow drops repeats.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

BATCH = 1000
"""The most metrics that MLflow takes in one request."""


class Point(NamedTuple):
    key: str
    value: float
    step: int
    timestamp_ms: int


class MetricWriter:
    """Hands what was `add`ed to `send` every `period` seconds, in lists of at most `BATCH` points.

    Nothing here raises for a tracker that fails: training goes on, one warning says where the metrics are kept.
    """

    def __init__(
        self, send: Callable[[list[Point]], None], spool: Path, *, period: float = 1.0, longest_wait: float = 30.0
    ) -> None:
        self._send = send
        self._spool = spool
        self._period = period
        self._longest_wait = longest_wait
        self._queue: list[Point] = []
        self._queue_lock = threading.Lock()  # held for moments: `add` is on the training path
        self._drain_lock = threading.Lock()  # held while a batch is under way: one sender at a time
        self._wait = 0.0  # seconds between tries while the tracker is down; 0 while it is up
        self._next_try = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metric-writer", daemon=True)
        self._thread.start()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        points = [Point(key, float(value), step, now) for key, value in metrics.items()]
        with self._queue_lock:
            self._queue.extend(points)

    def flush(self) -> None:
        """Try at once to send all there is; what is refused is in the spool when this returns."""
        self._drain(even_if_down=True)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._drain()

    def _drain(self, *, even_if_down: bool = False) -> None:
        with self._drain_lock:
            with self._queue_lock:
                points, self._queue = self._queue, []
            if self._wait and not even_if_down and time.monotonic() < self._next_try:
                self._keep(points)
                return
            try:
                if self._spool.exists():
                    for late in _chunks(_read(self._spool)):
                        self._send(late)
                    self._spool.unlink()
                for batch in _chunks(points):
                    self._send(batch)
            except Exception as error:  # a tracker can fail in any way it likes; none of them may stop a training run
                self._keep(points)
                self._back_off(error)
            else:
                if self._wait:
                    logger.warning("tracking works again; the metrics kept in %s were sent", self._spool)
                self._wait = 0.0

    def _keep(self, points: list[Point]) -> None:
        if not points:
            return
        try:
            with self._spool.open("a", encoding="utf-8") as file:
                # The newline goes first: a line torn by a kill then spoils only itself.
                file.write("".join("\n" + json.dumps(point) for point in points))
        except OSError:  # a full disk; memory is the last resort
            with self._queue_lock:
                self._queue = points + self._queue

    def _back_off(self, error: Exception) -> None:
        if not self._wait:
            reason = " ".join(str(error).split())[:200]
            logger.warning("tracking fails, training goes on; metrics are kept in %s: %s", self._spool, reason)
        self._wait = min(max(2 * self._wait, self._period), self._longest_wait)
        self._next_try = time.monotonic() + self._wait


def _chunks(points: list[Point]) -> Iterator[list[Point]]:
    return (points[start : start + BATCH] for start in range(0, len(points), BATCH))


def _read(spool: Path) -> list[Point]:
    points = []
    for line in spool.read_text(encoding="utf-8").splitlines():
        try:
            points.append(Point(*json.loads(line)))
        except ValueError:  # empty, or torn by a kill in the middle of a write
            continue
    return points
