"""Driftwork in Python, on tables of pandas or Arrow and on files:

    import driftwork
    data = driftwork.prepare(frame, "data", layout="wide", time_unit="h")
    run = driftwork.train("vsdn_vae", data)
    filled = run.impute(frame)

`import driftwork` loads no other module; the first use of a name loads the modules that it needs.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes longer to load than this module
    from typing import Any

    from driftwork.errors import DriftworkError as DriftworkError
    from launch.api import Run as Run
    from launch.api import load as load
    from launch.api import prepare as prepare
    from launch.api import train as train

__all__ = ["DriftworkError", "Run", "load", "prepare", "train"]


def __getattr__(name: str) -> "Any":
    if name == "DriftworkError":
        from driftwork.errors import DriftworkError

        return DriftworkError
    if name in __all__:
        from launch import api

        return getattr(api, name)
    raise AttributeError(f"module 'driftwork' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
