"""What a step takes, in time and in memory."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

Step = Callable[[], object]


def timed(step: Step) -> float:
    """Seconds of the processor: what others do meanwhile does not count."""
    started = time.process_time()
    step()
    return time.process_time() - started


def in_turn(*steps: Step, rounds: int) -> list[list[float]]:
    """Seconds of each step in every round: taken in turn, a machine that slows down slows all alike."""
    times = [[timed(step) for step in steps] for _ in range(rounds)]
    return [list(column) for column in zip(*times, strict=True)]


class Ratio(NamedTuple):
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Self:
        """How many times as long they take, round by round."""
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def misses(self, least: float) -> bool:
        """Whether every round is below what is asked for. The ratio depends on the processor too, so that rounds on
        both sides decide nothing."""
        return self.high < least


def memory(make: Callable[..., Step], *arguments: object) -> float:
    """MiB that a process which takes the step made by `make(*arguments)` once holds at most, less what it held before;
    in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (make, *arguments))


def _memory(make: Callable[..., Step], *arguments: object) -> float:
    step = make(*arguments)
    before = peak()
    step()
    return peak() - before


def peak(process: int | str = "self") -> float:
    """MiB that a process has held at most; getrusage would not do, because a new process starts from its parent's."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
