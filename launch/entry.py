"""How every command ends: an exit code, and one line on stderr for a mistake the user can mend."""

import sys
from collections.abc import Callable

from models.errors import DriftworkError


def run(name: str, main: Callable[[list[str]], int], argv: list[str]) -> int:
    """Call `main(argv)`; a DriftworkError becomes `driftwork NAME: line` and exit code 2, Ctrl-C becomes 130."""
    try:
        return main(argv)
    except DriftworkError as error:
        print(f"driftwork {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
