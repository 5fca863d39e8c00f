"""A check that bad input is read, or refused in one line that names it."""

from collections.abc import Callable
from typing import Any


def attempt(read: Callable[[], Any], refusal: type[Exception], name: str, lines: bool = False) -> str:
    """Return `read`, or `refused` for an error of one line that names the input; with `lines`, of one line per file."""
    try:
        read()
    except refusal as error:
        for line in str(error).split("\n") if lines else [str(error)]:
            assert line.isprintable(), repr(line)
            assert name in line, line
        return "refused"
    return "read"
