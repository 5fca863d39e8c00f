"""Check that Unix sockets in the folder for temporary files have paths that the system takes.

An address holds some hundred bytes, and the folder that a batch system makes for each job may take most of them. Ray
then refuses to start, and a rank waits for ever for the processes that read its batches.
"""

import os
import sys
import tempfile

from driftwork.errors import DriftworkError

_MOST = 103 if sys.platform == "darwin" else 107
"""Bytes of a path."""
_RAY = f"/ray/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
"""The longest path that Ray makes."""
_LISTENER = "/pymp-12345678/listener-12345678"
"""The path that Python's multiprocessing makes."""


def problem_of_ray() -> tuple[str, str] | None:
    """Return what is wrong with the folder in which a Ray of our own would place its sockets, and the cure."""
    temporary = os.environ.get("TMPDIR", "/tmp") if sys.platform.startswith("linux") else "/tmp"
    return _problem("Ray", "RAY_TMPDIR", os.environ.get("RAY_TMPDIR", temporary), _RAY)


def problem_of_loaders() -> tuple[str, str] | None:
    """Return what is wrong with the folder in which `loader_workers` would place theirs, and the cure."""
    return _problem("loader_workers", "TMPDIR", tempfile.gettempdir(), _LISTENER)


def require(problem: tuple[str, str] | None, where: str) -> None:
    """Raise a `DriftworkError` if there is a problem; `where` is the setting that needs the sockets."""
    if problem is not None:
        raise DriftworkError(f"{where}: {'; '.join(problem)}")


def _problem(who: str, variable: str, folder: str, path: str) -> tuple[str, str] | None:
    needed = len(os.fsencode(os.path.abspath(folder) + path))
    if needed <= _MOST:
        return None
    said = f"sockets of {who} in {folder} would have paths of {needed} bytes, and the system takes {_MOST}"
    return said, f"take a shorter one, as in: export {variable}=/tmp"
