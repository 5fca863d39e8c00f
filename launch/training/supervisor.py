"""A job that died is started again, from its last checkpoint and a bounded number of times; one that is asked to leave
is given the time to save."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

from launch.job import signals
from launch.job.hosts import AwayError
from launch.job.signals import TERMINATED, handled
from launch.runs import run_folder
from launch.training import watchdog

LEFT = os.EX_TEMPFAIL
"""Exit code, 75, of a job that was asked to leave, has saved, and can go on with `resume=RUN`."""
INTERRUPTED = "interrupted"
"""In the run folder's record: the step that such a job saved at."""

_PAUSES_S = (10, 20, 40, 80, 160, *[300] * 5)
"""Between tries to reach a host that took part before: half an hour in all, and as long as ssh takes to give up."""

_SAVING = "\ndriftwork train: Ctrl-C: the ranks finish the step and save; press it again to end at once\n"

_FINAL = (0, 2, LEFT, signals.INTERRUPTED, TERMINATED)
"""Exit codes that mean what they say: done, a mistake or a training that cannot go on, asked to leave, ended."""


def supervised(folder: Path, start: Callable[[], int], restarts: int) -> int:
    """Call `start`, and again while what it gives is the exit code of a job that died; returns the last one.

    Raises:
        AwayError: a host was not there at the first start, or stayed away after the job had died.
    """
    for left in range(restarts, -1, -1):
        watchdog.clear(folder)
        code = _started(folder, start if left == restarts else partial(_when_back, start))
        if code in _FINAL:
            return code
        again = f"restart {restarts - left + 1} of {restarts} from the last checkpoint" if left else "no restart left"
        said = ["driftwork train: the job died with " + _named(code), watchdog.lost(folder), again]
        print("; ".join(filter(None, said)), file=sys.stderr, flush=True)
    return code


def _started(folder: Path, start: Callable[[], int]) -> int:
    run_folder.remember(folder, **{INTERRUPTED: None})
    try:
        with _signals_for_ranks(folder) as came:
            code = start()
    except (SystemExit, KeyboardInterrupt):  # ranks on other hosts were asked to leave, and given the time to save
        if not _has_left(folder):
            raise
        return LEFT
    if code in (0, LEFT) or came:
        return LEFT if _has_left(folder) else 128 + came[0] if code and came else code
    return code


def _when_back(start: Callable[[], int]) -> int:
    """Call `start`, and again ever later while a host is away, as one that reboots is; that costs no restart. Raises
    `AwayError` when it has been away for too long."""
    for pause in _PAUSES_S:
        try:
            return start()
        except AwayError as away:
            print(f"driftwork train: {away}; the next try is in {pause} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    return start()


def _has_left(folder: Path) -> bool:
    return run_folder.record_of(folder).get(INTERRUPTED) is not None


@contextmanager
def _signals_for_ranks(folder: Path) -> Iterator[list[int]]:
    """Hand SIGTERM and Ctrl-C on to the ranks on this machine, which save and leave; yields what has come.

    It goes past DeepSpeed's launcher, which would grant them 30 s. Where none has begun to train here, SIGTERM raises
    SystemExit and Ctrl-C KeyboardInterrupt, as does a second one. A second Ctrl-C kills the ranks before.
    """
    came: list[int] = []

    def hand_on(signum: int, frame: FrameType | None) -> None:
        ranks, first = _ranks(), not came
        came.append(signum)
        if ranks and first and watchdog.notes(folder):
            if signum == signal.SIGINT:
                os.write(2, _SAVING.encode())  # print may be what was interrupted
            for rank in ranks:
                with suppress(psutil.Error):
                    rank.terminate()
        elif signum == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        else:
            _kill(ranks)
            raise KeyboardInterrupt

    with handled(hand_on):
        yield came


def _ranks() -> list[psutil.Process]:
    """The ranks below this process, without the processes that they start, such as those that read batches ahead: as
    long as these start, SIGTERM ends them."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):  # parents before children
        with suppress(psutil.Error):
            if "LOCAL_RANK" in process.environ() and process.ppid() not in found:
                found[process.pid] = process
    return list(found.values())


def _kill(ranks: list[psutil.Process]) -> None:
    """End ranks at once, their launcher first: it would report each as an error."""
    launchers = {parent for rank in ranks if (parent := _parent(rank)) is not None and parent.pid != os.getpid()}
    for process in [*launchers, *ranks]:
        with suppress(psutil.Error):
            process.kill()


def _parent(process: psutil.Process) -> psutil.Process | None:
    with suppress(psutil.Error):
        return process.parent()
    return None


def _named(code: int) -> str:
    """As a process was killed, its parent's parent sees 256 or 128 and the signal's number."""
    number = -code if code < 0 else 256 - code if code > 192 else code - 128
    try:
        return f"signal {signal.Signals(number).name}" if number > 0 else _own(code)
    except ValueError:
        return f"exit code {code}"


def _own(code: int) -> str:
    return "a watchdog's error" if code == watchdog.HUNG else f"exit code {code}"
