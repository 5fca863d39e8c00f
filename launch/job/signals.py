"""Signals turned into what Python can clean up after. Off the main thread both contexts do nothing."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM ended, as shells count it."""
INTERRUPTED = 128 + signal.SIGINT
"""The same of Ctrl-C."""

LEAVE = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask a process to end."""

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """SIGTERM raises SystemExit(TERMINATED) inside, unless the caller already has a handler of its own."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def signals_noted() -> Iterator[Callable[[], bool]]:
    """Only note SIGTERM and Ctrl-C inside; yields a function that returns whether one has come."""
    came: list[int] = []
    with handled(lambda signum, frame: came.append(signum)):
        yield lambda: bool(came)


@contextmanager
def signals_ignored(*numbers: int) -> Iterator[None]:
    """Ignore these signals inside, by default SIGTERM and Ctrl-C. What is inside must be bounded in time."""
    with handled(signal.SIG_IGN, *numbers):
        yield


@contextmanager
def handled(handler: Handler, *numbers: int) -> Iterator[None]:
    """Install a handler of these signals inside, by default of SIGTERM and Ctrl-C. A Ctrl-C that the caller's shell has
    this process ignore, as a shell script does for what it starts with `&`, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in numbers or LEAVE if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
