"""The setting `loops`: whether the loops over time may take a faster form than the eager one."""

from typing import Literal

Loops = Literal["auto", "eager"]

_loops: Loops = "auto"


def set_loops(loops: Loops) -> None:
    """Choose for this process: `auto`, the fastest form that covers a loop, or `eager`, the reference."""
    global _loops
    _loops = loops


def faster_forms() -> bool:
    """Return whether faster forms may be taken."""
    return _loops == "auto"
