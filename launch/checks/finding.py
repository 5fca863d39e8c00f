"""The result of a check by the doctor, with its cure."""

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    check: str
    level: Level
    said: str
    """The finding, in one line."""
    cure: str = ""
    """Remedy in one line; empty if nothing is wrong."""

    def __str__(self) -> str:
        return f"{self.level:7s}  {self.check:12s} {self.said}" + (f"; {self.cure}" if self.cure else "")


def ok(check: str, said: str) -> Finding:
    return Finding(check, "ok", said)


def warning(check: str, said: str, cure: str) -> Finding:
    return Finding(check, "warning", said, cure)


def error(check: str, said: str, cure: str) -> Finding:
    return Finding(check, "error", said, cure)
