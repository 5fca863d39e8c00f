"""How every command begins and ends: with its usage for who asks, an exit code, and one line on stderr for a mistake
the user can mend."""

import errno
import os
import sys
from collections.abc import Callable
from functools import wraps

from models.errors import AgreedError, DriftworkError

Main = Callable[[list[str]], int]


def command(usage: str, least: int = 1, most: int | None = None) -> Callable[[Main], Main]:
    """Decorate a `main` that takes at least so many words, flags not counted, and at most so many arguments: with
    others it prints `usage` instead and returns 2, as with -h, and then 0."""

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


def run(name: str, main: Main, argv: list[str]) -> int:
    """Call `main(argv)`; a DriftworkError or a full disk becomes `driftwork NAME: line` and exit code 2, Ctrl-C becomes
    130."""
    try:
        return main(argv)
    except DriftworkError as error:
        if not isinstance(error, AgreedError) or os.environ.get("RANK", "0") == "0":
            print(f"driftwork {name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"driftwork {name}: {where}{error.strerror}; what was whole before still is", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
