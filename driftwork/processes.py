"""Start Python processes that run this code, and end with the process that started them.

`python -m module` puts the working folder before everything else that is imported: a user's own `launch.py` or
`torch.py` there would be executed in the place of the module of that name.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `launch`, `pipeline` and `models`."""


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python with `arguments`, without the working folder in its path."""
    return [sys.executable, "-P", *arguments]


def search_path() -> dict[str, str]:
    """Return the environment variables by which a process, and each that it starts, finds this code first.

    Folders that the user has put into PYTHONPATH follow. An empty entry, which stands for the working folder and is
    mostly left by an accident (`PYTHONPATH=$PYTHONPATH:/more`), is dropped.
    """
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *others]), "PYTHONSAFEPATH": "1"}


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """For a process that was just forked (`preexec_fn`), or for oneself: it gets this signal when its parent dies, even
    of SIGKILL. Linux alone can do so; elsewhere it outlives a parent that had no time to end it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
