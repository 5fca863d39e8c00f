"""Measure the time and the memory of a step."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

Step = Callable[[], object]


def timed(step: Step) -> float:
    """Return the processor seconds of a step, which do not depend on other processes."""
    started = time.process_time()
    step()
    return time.process_time() - started


def in_turn(*steps: Step, rounds: int) -> list[list[float]]:
    """Return the seconds of each step in every round. Steps run in turn, so that other load affects all alike."""
    times = [[timed(step) for step in steps] for _ in range(rounds)]
    return [list(column) for column in zip(*times, strict=True)]


class Ratio(NamedTuple):
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Self:
        """Return the ratio of the times `theirs` to the times `ours`, round by round."""
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def misses(self, least: float) -> bool:
        """Return whether the ratio is below `least` in every round.

        The ratio also varies with the processor's state, so rounds on both sides of `least` are not a failure."""
        return self.high < least


def memory(make: Callable[..., Step], *arguments: object) -> float:
    """Return the additional peak memory, in MiB, of a separate process that runs the step `make(*arguments)` once."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (make, *arguments))


def _memory(make: Callable[..., Step], *arguments: object) -> float:
    step = make(*arguments)
    before = peak()
    step()
    return peak() - before


def peak(process: int | str = "self") -> float:
    """Return the peak memory of a process, in MiB.

    getrusage is not suitable, since a new process starts with its parent's peak."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
