"""A process that ends with the one that started it."""

import ctypes
import signal
import sys

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """For a process that was just forked (`preexec_fn`), or for oneself: it gets this signal when its parent dies, even
    of SIGKILL. Linux alone can do so; elsewhere it outlives a parent that had no time to end it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
