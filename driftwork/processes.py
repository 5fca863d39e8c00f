"""Start Python processes that run this code and end with the process that started them, and leave on SIGTERM.

`python -m module` puts the working folder first in the import path: a user's own `launch.py` or `torch.py` there would
be executed instead of the module of that name.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `launch`, `pipeline` and `models`."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process ended by SIGTERM, by the convention of shells."""

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python with `arguments`, without the working folder in its path."""
    return [sys.executable, "-P", *arguments]


def search_path() -> dict[str, str]:
    """Return the environment variables with which a process, and those that it starts, import this code first.

    The user's folders in PYTHONPATH follow, as absolute paths, because the process may run in another folder. An
    empty entry, which stands for the working folder and is mostly an accident (`PYTHONPATH=$PYTHONPATH:/more`), is
    dropped.
    """
    others = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *others]), "PYTHONSAFEPATH": "1"}


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Make the kernel send this process a signal when its parent dies, even by SIGKILL. The function can be passed as
    `preexec_fn`.

    Only Linux can do so; elsewhere the process outlives a parent that had no time to end it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(TERMINATED) within the context, unless the caller already has its own handler."""

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
