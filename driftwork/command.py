"""Common frame of all commands: usage on request, exit codes, and one line on stderr for a mistake of the user."""

import errno
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from driftwork.errors import AgreedError, DriftworkError, without_login

Main = Callable[[list[str]], int]

TEMPORARY_HOME = "driftwork-home-"
"""Prefix of the name of a temporary home folder, which lasts as long as the command."""


def command(usage: str, least: int = 1, most: int | None = None) -> Callable[[Main], Main]:
    """Decorate a `main` so that it prints `usage` on -h and --help and returns 0.

    With fewer than `least` words (flags not counted) or more than `most` arguments it prints `usage` and returns 2."""

    def decorate(main: Main) -> Main:
        @wraps(main)
        def decorated(argv: list[str]) -> int:
            asked, words = argv[:1] in (["-h"], ["--help"]), [x for x in argv if not x.startswith("-")]
            if asked or len(words) < least or (most is not None and len(argv) > most):
                print(usage)
                return 0 if asked else 2
            return main(argv)

        return decorated

    return decorate


def typed(name: str, argv: list[str]) -> str:
    """Return the command line as it can be typed again, without logins so that it can be stored."""
    import shlex  # with `re`, half of the time that the entry takes to load

    return shlex.join(["driftwork", name, *map(without_login, argv)])


def run(name: str, main: Main, argv: list[str]) -> int:
    """Call `main(argv)` and return its exit code. A DriftworkError or a full disk becomes the line
    `driftwork NAME: ...` on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        with home_provided():
            return main(argv)
    except DriftworkError as error:
        if not isinstance(error, AgreedError) or os.environ.get("RANK", "0") == "0":
            print(f"driftwork {name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"driftwork {name}: {where}{error.strerror}; existing files are intact", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


@contextmanager
def home_provided() -> Iterator[None]:
    """Provide a temporary home folder and a user name where the system knows none, as in a container whose user id has
    no passwd entry. Libraries would otherwise fail, or write into a folder named `~`."""
    home = os.path.expanduser("~")  # `~` itself if it is not known
    if not any(map(os.environ.get, ("LOGNAME", "USER", "LNAME", "USERNAME"))):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            os.environ["USER"] = str(os.getuid())
    if home != "~" and os.path.isdir(home):
        yield
        return
    import tempfile  # takes longer to load than the rest of this module

    before = os.environ.get("HOME")
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_HOME) as folder:
        os.environ["HOME"] = folder
        try:
            yield
        finally:
            del os.environ["HOME"]
            os.environ.update({"HOME": before} if before is not None else {})
