"""The result of a check by the doctor, with its cure."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    check: str
    level: Level
    message: str
    """The finding, in one line."""
    cure: str = ""
    """Remedy in one line; empty if nothing is wrong."""

    def __str__(self) -> str:
        return f"{self.level:7s}  {self.check:12s} {self.message}" + (f"; {self.cure}" if self.cure else "")


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warning(check: str, message: str, cure: str) -> Finding:
    return Finding(check, "warning", message, cure)


def error(check: str, message: str, cure: str) -> Finding:
    return Finding(check, "error", message, cure)
