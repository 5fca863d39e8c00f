"""Profiles of a rank: a trace of some steps by torch.profiler, which Chrome and Perfetto show, and a snapshot of a
GPU's memory when it runs out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from driftwork.errors import DriftworkError
from launch.runs.config import RunConfig
from launch.runs.distributed import Ranks

_MEMORY_EVENTS = 100_000
"""Number of allocations on a GPU whose stacks are kept, for a snapshot of the memory."""


class StepProfile:
    """A recorder of the steps in a range, counted from 0. `at` is called before each step and `close` after the last.

    Args:
        done: function that takes the file of the trace.
    """

    def __init__(self, steps: range, folder: Path, done: Callable[[Path], None]) -> None:
        self.steps, self.folder, self.done = steps, folder, done
        self._running: profile | None = None
        self._first = 0

    def at(self, step: int) -> None:
        """Begin or end the recording."""
        if self._running is None and step in self.steps:
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.memory._record_memory_history(max_entries=_MEMORY_EVENTS)
            self._running = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])
            self._running.start()
            self._first = step
        elif self._running is not None and step not in self.steps:
            self._end(step)

    def close(self, step: int) -> None:
        """End a recording that the end of training cuts short."""
        if self._running is not None:
            self._end(step)

    def _end(self, step: int) -> None:
        running, self._running = self._running, None
        assert running is not None, "the profiler was started"
        running.stop()
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"steps-{self._first}-{step}.json.gz"
        running.export_chrome_trace(str(file))
        if torch.cuda.is_available():
            torch.cuda.memory._record_memory_history(enabled=None)
        self.done(file)


@contextmanager
def shortage_explained(config: RunConfig, folder: Path, ranks: Ranks, step: Callable[[], int]) -> Iterator[None]:
    """Turn an OutOfMemoryError into one line that names what to change, and write a snapshot of the GPU's memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        parts, size = config.train.accumulate, config.train.batch_size
        file = _snapshot(folder / f"memory-rank-{ranks.rank}.pickle")
        raise DriftworkError(
            f"rank {ranks.rank} ran out of GPU memory in step {step()}: {str(error).splitlines()[0].rstrip('.')}; "
            f"give train.accumulate={2 * parts} (now {parts}), which halves the memory that a step keeps, or start a "
            f"new run with a smaller train.batch_size (now {size})" + (f"; what was allocated: {file}" if file else "")
        ) from error


def _snapshot(file: Path) -> Path | None:
    try:
        torch.cuda.memory._dump_snapshot(str(file))
    except (OSError, RuntimeError, AssertionError, AttributeError):  # torch's own, which may lack the memory for it
        return None
    return file
