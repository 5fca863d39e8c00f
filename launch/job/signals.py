"""Turn signals into exceptions or flags, so that Python can clean up. Off the main thread the contexts do nothing."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a process ended by Ctrl-C."""

LEAVE = (signal.SIGTERM, signal.SIGINT)
"""Signals that make a process save and end."""

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


@contextmanager
def signals_noted() -> Iterator[Callable[[], bool]]:
    """Record SIGTERM and Ctrl-C within the context without acting on them. Yield a function that returns whether one
    came."""
    came: list[int] = []
    with handled(lambda signum, frame: came.append(signum)):
        yield lambda: bool(came)


@contextmanager
def signals_ignored(*numbers: int) -> Iterator[None]:
    """Ignore these signals within the context, by default SIGTERM and Ctrl-C. Work in it must be bounded in time."""
    with handled(signal.SIG_IGN, *numbers):
        yield


@contextmanager
def ctrl_z_stops_all() -> Iterator[None]:
    """Let Ctrl-Z within the context stop the processes below this one too, which are in process groups of their own;
    `fg` and `bg` continue them with this one."""

    def stop(signum: int, frame: FrameType | None) -> None:
        below = psutil.Process().children(recursive=True)
        for process in below:
            with suppress(psutil.Error):
                process.suspend()
        os.kill(os.getpid(), signal.SIGSTOP)  # returns when the shell continues this process
        for process in below:
            with suppress(psutil.Error):
                process.resume()

    with handled(stop, signal.SIGTSTP):
        yield


@contextmanager
def handled(handler: Handler, *numbers: int) -> Iterator[None]:
    """Install a handler of these signals within the context, by default of SIGTERM and Ctrl-C. If the caller's shell
    makes this process ignore Ctrl-C, as a shell script does for its background jobs, Ctrl-C stays ignored.
    """
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
