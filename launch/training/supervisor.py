"""Restart a job that died from its last checkpoint, a limited number of times, and give a job that is requested to stop
the time to save."""

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

from driftwork.processes import TERMINATED
from launch.job import signals
from launch.job.hosts import AwayError
from launch.job.signals import handled
from launch.runs import run_folder
from launch.training import watchdog

LEFT = os.EX_TEMPFAIL
"""Exit code, 75, of a job that was requested to stop, has saved, and can continue with `resume=RUN`."""
INTERRUPTED = "interrupted"
"""Key of the run folder's record: the step at which a job that was requested to stop has saved."""

_PAUSES_S = (10, 20, 40, 80, 160, *[300] * 5)
"""Pauses between tries to reach a host that took part before: half an hour in total, plus ssh's own timeouts."""

_SAVING = "\ndriftwork train: Ctrl-C: the ranks finish the step and save; press Ctrl-C again to end at once\n"

_FINAL = (0, 2, LEFT, signals.INTERRUPTED, TERMINATED)
"""Exit codes after which there is no restart: done, a mistake or an impossible training, saved and stopped, ended."""


def supervised(folder: Path, start: Callable[[], int], restarts: int) -> int:
    """Call `start`, and again while it returns the exit code of a job that died. Return the last exit code.

    Raises:
        AwayError: a host was unreachable at the first start, or stayed unreachable after the job had died.
    """
    for left in range(restarts, -1, -1):
        watchdog.clear(folder)
        code = _started(folder, start if left == restarts else partial(_when_back, start))
        if code in _FINAL:
            return code
        again = f"restart {restarts - left + 1} of {restarts} from the last checkpoint" if left else "no restart left"
        parts = ["driftwork train: the job died with " + _named(code), watchdog.lost(folder), again]
        print("; ".join(filter(None, parts)), file=sys.stderr, flush=True)
    return code


def _started(folder: Path, start: Callable[[], int]) -> int:
    run_folder.remember(folder, **{INTERRUPTED: None})
    try:
        with _signals_for_ranks(folder) as came:
            code = start()
    except (SystemExit, KeyboardInterrupt):  # ranks on other hosts were requested to stop, and given the time to save
        if not _has_left(folder):
            raise
        return LEFT
    if code in (0, LEFT) or came:
        return LEFT if _has_left(folder) else 128 + came[0] if code and came else code
    return code


def _when_back(start: Callable[[], int]) -> int:
    """Call `start`, and again with increasing pauses while a host is unreachable, for example while it reboots; that
    costs no restart. Raises `AwayError` if a host is unreachable for too long."""
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
    """Pass SIGTERM and Ctrl-C on to the ranks on this machine, which save and stop; yields the received signals.

    Signals bypass DeepSpeed's launcher, which would give the ranks only 30 s. If no rank trains here yet, and for a
    second signal, SIGTERM raises SystemExit and Ctrl-C KeyboardInterrupt. A second Ctrl-C kills the ranks first.
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
    """Return the ranks below this process, without their own child processes, such as those that read batches ahead:
    SIGTERM would end these while they start."""
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
    """Describe an exit code. For a killed process, its grandparent gets 256 or 128 plus the signal's number."""
    number = -code if code < 0 else 256 - code if code > 192 else code - 128
    try:
        return f"signal {signal.Signals(number).name}" if number > 0 else _own(code)
    except ValueError:
        return f"exit code {code}"


def _own(code: int) -> str:
    return "a watchdog's error" if code == watchdog.HUNG else f"exit code {code}"
