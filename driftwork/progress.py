"""Progress on stderr: a bar on a terminal, a plain line now and then in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 10.0
"""Seconds between two plain lines."""


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each of `total` steps; `what` names the counted things."""
    console = Console(stderr=True, markup=False, emoji=False)  # names may have brackets and colons
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    done, printed = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, printed
        done += 1
        if done == total or time.monotonic() - printed >= LINE_EVERY:
            printed = time.monotonic()
            console.print(f"{what}: {done} of {total}", highlight=False)

    yield advance
