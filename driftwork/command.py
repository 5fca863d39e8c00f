"""Common frame of all commands: usage on request, exit codes, and one line on stderr for a mistake of the user."""

import atexit
import errno
import gc
import os
import pwd
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from driftwork.errors import AgreedError, DriftworkError, without_login

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` and pydantic take longer to load than all else here
    from driftwork.help import Part

Main = Callable[[list[str]], int]
Settings = Callable[[list[str]], "list[Part]"]

PIPE_CLOSED = 128 + 13
"""Exit code of a process ended by SIGPIPE, by the convention of shells."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CURES = {
    **dict.fromkeys(_FULL, "existing files are intact"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it readable and writable"),
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""End of the line about an error of the system that needs no traceback."""

TEMPORARY_HOME = "driftwork-home-"
"""Prefix of the name of a temporary home folder, which lasts as long as the command."""


class Command:
    """A `main` function with its usage and help."""

    def __init__(self, main: Main, usage: str, least: int, most: int | None, settings: Settings | None) -> None:
        self.main, self.usage, self.least, self.most, self.settings = main, usage, least, most, settings

    def __call__(self, argv: list[str]) -> int:
        words = [x for x in argv if not x.startswith("-")]
        if {"-h", "--help"} & set(argv):
            self._help(words)
            return 0
        if len(words) < self.least or (self.most is not None and len(argv) > self.most):
            print(self.usage)
            return 2
        from driftwork.processes import sigterm_exits  # it loads much

        with sigterm_exits():  # scratch folders are removed on the way out
            return self.main(argv)

    def _help(self, words: list[str]) -> None:
        if self.settings is None:
            print(self.usage)
            return
        from driftwork import help  # it loads much

        try:
            print(help.text(self.usage, self.settings(words)), flush=True)
        except BrokenPipeError:  # the reader has seen enough, as in `driftwork train --help | head`
            _drop_output()


def command(
    usage: str, least: int = 1, most: int | None = None, settings: Settings | None = None
) -> Callable[[Main], Command]:
    """Decorate a `main` so that it prints `usage` and its settings on -h and --help and returns 0.

    With fewer than `least` words (flags not counted) or more than `most` arguments it prints `usage` and returns 2.

    Args:
        settings: returns the settings of the command; its argument is the words beside --help, without flags.
    """
    return lambda main: Command(main, usage, least, most, settings)


def typed(name: str, argv: list[str]) -> str:
    """Return the command line as it can be typed again, without logins so that it can be stored."""
    import shlex  # with `re`, half of the time that the entry takes to load

    return shlex.join(["driftwork", name, *map(without_login, argv)])


def run(name: str, main: Main, argv: list[str]) -> int:
    """Call `main(argv)` and return its exit code. A DriftworkError, or a file that the system refuses to read or write,
    becomes the line `driftwork NAME: ...` on stderr and exit code 2, Ctrl-C exit code 130. In a rank a refused file is
    raised: the rank is restarted, since a file system may refuse a file for a moment."""
    atexit.register(_end_soon)
    try:
        with home_provided():
            return main(argv)
    except DriftworkError as error:
        if not isinstance(error, AgreedError) or os.environ.get("RANK", "0") == "0":
            print(f"driftwork {name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _is_unread():
            raise
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:
        cure = _CURES.get(error.errno or 0)
        if cure is None or (error.errno not in _FULL and (not error.filename or "RANK" in os.environ)):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"driftwork {name}: {where}{error.strerror}; {cure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _end_soon() -> None:
    """Omit Python's last search for reference cycles, which takes up to a second where torch is loaded.

    The search stays where Triton is loaded, which would otherwise print 40 lines about objects that are left."""
    if "triton" not in sys.modules:
        gc.freeze()


def _is_unread() -> bool:
    """Return whether the reader of this process's output has ended, as in `driftwork doctor | head`."""
    watch = select.poll()
    watch.register(1, 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def _drop_output() -> None:
    """Discard what is printed from now on, and what is printed but not written yet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def home_provided() -> Iterator[None]:
    """Provide a temporary home folder and a user name where the system has none, as in a container whose user id has no
    passwd entry. Libraries would otherwise fail, or write into a folder named `~`."""
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
