"""Turn a hang into an error that names the rank and the place.

A thread of each rank writes the rank's place to `RUN/ranks/N.json` every second. If the rank makes no progress for too
long, the thread reads the notes of the others, prints which rank is waited for, writes the stacks of all threads to
`RUN/ranks/N.stacks` and its last collectives to `RUN/ranks/N.collectives.json`, and ends the process. A process that is
stopped, or whose host is lost, writes nothing more.
"""

import faulthandler
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from launch.job import collectives
from launch.runs.run_folder import RANKS

_T = TypeVar("_T")

HUNG = 70
"""Exit code of a rank ended by its watchdog: EX_SOFTWARE of sysexits.h."""

_HUNG = "hung"
_PATIENCE_S = 600.0
_STOPPED_S = 5.0
"""Delay of a thread, in seconds, that means that its process was stopped."""
_PHASES = (
    "start", "load", "data", "forward", "communication", "backward", "update", "step", "record", "validation", "save",
)  # fmt: skip
"""Phases in the order in which ranks pass through them; within a step, the others wait for the rank that is last."""


class Note(NamedTuple):
    rank: int
    step: int
    phase: str
    seconds: float
    """Time spent in this phase of this step so far, in seconds."""
    beats: int
    """Number of notes so far; if it stays the same, the whole process has stopped."""
    ended: str = ""
    """Reason why the process ended, if it could write it."""

    @property
    def place(self) -> str:
        return f"step {self.step}, {self.phase}"


class Watchdog:
    """A watchdog over one rank while the context is open. Every call of `at` reports progress.

    `patience`, in seconds, may change, since loading takes longer at first.
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.patience = rank, _PATIENCE_S
        self.within: Callable[[], str | None] = lambda: None
        """Function that returns the phase inside "step"."""
        self._folder: Path | None = None
        self._place = (0, "start", time.monotonic())
        self._beats = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._closed.set()
        self._thread.join()
        if error is None and self._folder is not None:
            _path(self._folder, self.rank).unlink(missing_ok=True)
        elif error is not None:
            self._note(f"{type(error).__name__}: {error}".splitlines()[0][:200])

    def settle(self, folder: Path) -> None:
        """Write notes to this run folder from now on."""
        self._folder = folder / RANKS
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)

    def at(self, phase: str, step: int | None = None) -> None:
        self._place = (self._place[0] if step is None else step, phase, time.monotonic())

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Suspend the time limit within the context."""
        self.patience, usual = math.inf, self.patience
        try:
            yield
        finally:
            self.at(self._place[1])
            self.patience = usual

    def over(self, phase: str, items: Iterable[_T]) -> Iterator[_T]:
        """Yield the items, and report progress with each."""
        for item in items:
            self.at(phase)
            yield item

    @property
    def _tick(self) -> float:
        return min(1.0, self.patience / 10)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._closed.wait(self._tick):
            now = time.monotonic()
            self._excuse(now - before - self._tick)
            before = now
            self._note()
            if time.monotonic() - self._place[2] > self.patience:
                self._end()

    def _excuse(self, late: float) -> None:
        """Do not count the seconds by which this thread was late if the whole process was stopped, as by Ctrl-Z."""
        if late > _STOPPED_S:
            step, phase, since = self._place
            self._place = step, phase, since + late

    def _end(self) -> None:
        parts = [f"driftwork train: rank {self.rank} has been in {self._here().place} for {self.patience:.0f} s"]
        if self._folder is not None:
            before = notes(self._folder.parent)
            for _ in range(3):  # time for the notes of others, which may be about to end as well
                time.sleep(self._tick)
                self._note()
            parts.append(_waited_for(before, notes(self._folder.parent), self.rank))
            stacks = _path(self._folder, self.rank).with_suffix(".stacks")
            with suppress(OSError), stacks.open("w") as file:
                faulthandler.dump_traceback(file)
                parts.append(f"stacks of its threads: {stacks}")
            with suppress(OSError, ValueError, KeyError, RuntimeError):  # the place must be reported in any case
                parts.append(collectives.written(stacks.with_suffix(".collectives.json")))
        self._note(_HUNG)
        print("; ".join(filter(None, parts)), file=sys.stderr, flush=True)
        os._exit(HUNG)

    def _here(self) -> Note:
        step, phase, since = self._place
        inner = self.within() if phase == "step" else None
        return Note(self.rank, step, inner or phase, time.monotonic() - since, self._beats)

    def _note(self, ended: str = "") -> None:
        if self._folder is None:
            return
        self._beats += 1
        path = _path(self._folder, self.rank)
        with suppress(OSError):  # others report a full disk
            path.with_suffix(".new").write_text(json.dumps(self._here()._replace(ended=ended)._asdict()))
            path.with_suffix(".new").replace(path)


def clear(run_folder: Path) -> None:
    """Delete the notes of earlier ranks."""
    for path in (run_folder / RANKS).glob("*.json"):
        path.unlink()


def notes(run_folder: Path) -> dict[int, Note]:
    """Return the last note of each rank."""
    found = {}
    for path in sorted((run_folder / RANKS).glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            note = Note(**json.loads(path.read_text()))
            found[note.rank] = note
    return found


def lost(run_folder: Path) -> str:
    """Return the ranks of an ended job that wrote no reason, or otherwise all reasons."""
    left = notes(run_folder).values()
    gone = [f"rank {note.rank} was lost, last seen in {note.place}" for note in left if not note.ended]
    return "; ".join(gone or [f"rank {note.rank} in {note.place}: {note.ended}" for note in left])


def _waited_for(before: dict[int, Note], after: dict[int, Note], mine: int) -> str:
    silent = [note for rank, note in after.items() if rank != mine and note == before.get(rank) and not note.ended]
    if silent:
        return "; ".join(f"rank {note.rank} is stopped or lost, last seen in {note.place}" for note in silent)
    there = [note for note in after.values() if note.ended in ("", _HUNG)]
    last = min(there, key=_order, default=None)
    if last is None or all(_order(note) == _order(last) for note in there):
        return "so are all ranks" if len(after) > 1 else ""
    return "" if last.rank == mine else f"rank {last.rank} is in {last.place}"


def _order(note: Note) -> tuple[int, int]:
    return note.step, _PHASES.index(note.phase) if note.phase in _PHASES else len(_PHASES)


def _path(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"
