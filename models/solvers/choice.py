"""The setting `loops`: whether the loops over time may use a faster form than the eager one."""

from typing import Literal

Loops = Literal["auto", "eager"]

_loops: Loops = "auto"


def set_loops(loops: Loops) -> None:
    """Choose the form of the loops in this process: `auto`, the fastest that supports a loop, or `eager`."""
    global _loops
    _loops = loops


def faster_forms() -> bool:
    """Return whether faster forms may be used."""
    return _loops == "auto"
