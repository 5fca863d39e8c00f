"""Check that Unix sockets in the temporary folder have paths of allowed length.

The path of a socket is limited to some hundred bytes, and the temporary folder that a batch system makes for each job
may take most of them. Ray then refuses to start, and a rank waits forever for the processes that read its batches.
"""

import os
import sys
import tempfile

from driftwork.errors import DriftworkError

_MOST = 103 if sys.platform == "darwin" else 107
"""Maximum bytes of a socket's path."""
_RAY = f"/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
"""The longest path that Ray makes."""
_LISTENER = "/pymp-12345678/listener-12345678"
"""The path that Python's multiprocessing makes."""


def problem_of_ray() -> tuple[str, str] | None:
    """Return the problem with the folder for the sockets of a local Ray, and its cure; None if there is none."""
    temporary = os.environ.get("TMPDIR", "/tmp") if sys.platform.startswith("linux") else "/tmp"
    return _problem("Ray", "RAY_TMPDIR", os.environ.get("RAY_TMPDIR", temporary), _RAY)


def problem_of_loaders() -> tuple[str, str] | None:
    """Return the problem with the folder for the sockets of `loader_workers`, and its cure; None if there is none."""
    return _problem("loader_workers", "TMPDIR", tempfile.gettempdir(), _LISTENER)


def require(problem: tuple[str, str] | None, where: str) -> None:
    """Raise a `DriftworkError` if there is a problem; `where` is the setting that needs the sockets."""
    if problem is not None:
        raise DriftworkError(f"{where}: {'; '.join(problem)}")


def _problem(who: str, variable: str, folder: str, path: str) -> tuple[str, str] | None:
    needed = len(os.fsencode(os.path.abspath(folder) + path))
    if needed <= _MOST:
        return None
    problem = f"sockets of {who} in {folder} would have paths of {needed} bytes, but the system allows {_MOST}"
    return problem, f"choose a shorter folder, as in: export {variable}=/tmp"
