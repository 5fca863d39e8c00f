"""Raw files are read in a child process with limits: a parser that crashes, hangs or eats memory costs one file.

A guard has one child, `python -m pipeline.prepare.guard`, which reads file after file; one that dies is replaced. What
comes back from it is JSON and the bytes of plain arrays, so that nothing a file may have made of the child is run here.
"""

import importlib
import json
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from driftwork.errors import DriftworkError
from driftwork.processes import end_with_parent, python, search_path
from pipeline.sequence import Item, Reader, Sequence, UnreadableError

_START_S = 300.0
"""A busy machine, or a cold network disk, may take a while over the imports."""
_WAITS = 10
"""Times its processor time that a file may take by the clock: a parser can hang without computing."""


class Limits(NamedTuple):
    """Of one raw file."""

    seconds: float
    """Of processor time, so that a busy machine makes no file unreadable."""
    mib: int
    """Memory of the whole process that reads it."""


class _LostError(UnreadableError):
    """The child is of no more use; the message says why."""


@lru_cache(maxsize=1)
def guard(reader: Reader, source: Path | None, limits: Limits) -> "Guard":
    """This process's own, kept from shard to shard: a child takes as long to start as to read some hundred files."""
    return Guard(reader, source, limits)


class Guard:
    """`read` does what `reader.read` does, but for what crashes it, and an item without files is read at once."""

    def __init__(self, reader: Reader, source: Path | None, limits: Limits) -> None:
        self.reader, self.source, self.limits = reader, source, limits
        self._child: _Child | None = None

    def read(self, item: Item) -> list[Sequence]:
        """Raises `UnreadableError` with the reason, and `DriftworkError` if no child can be started.

        A file fails for good in a fresh child alone: another that was read before it may have harmed an older one.
        """
        if not item.files:
            return self.reader.read(self.source, item)
        if self._child is not None:
            try:
                return self._ask(self._child, item)
            except _LostError:
                pass
        self._child = _Child(self.reader, self.source, self.limits)
        return self._ask(self._child, item)

    def _ask(self, child: "_Child", item: Item) -> list[Sequence]:
        try:
            head, body = child.ask(item)
        except BaseException:  # a late answer must not be taken for that of the next file
            self.close()
            raise
        if "reason" in head:
            raise UnreadableError(head["reason"])
        return [_unpacked(packed, body) for packed in head["sequences"]]

    def close(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """The process, as the parent sees it."""

    def __init__(self, reader: Reader, source: Path | None, limits: Limits) -> None:
        self.limits = limits
        config = reader.config  # type: ignore[attr-defined]  # every reader of files has one, and is made of it
        here, there = socket.socketpair()
        with there:
            told = {
                "reader": _name(type(reader)), "config": _name(type(config)), "settings": config.model_dump_json(),
                "source": str(source), **limits._asdict(), "parent": os.getpid(), "fd": there.fileno(),
            }  # fmt: skip
            one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # each thread takes memory
            self.process = subprocess.Popen(
                python("-m", "pipeline.prepare.guard", json.dumps(told)),
                env=os.environ | one | search_path(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                process_group=0,  # a Ctrl-C is for the parent, which ends the child
            )
        self.connection = Connection(here.detach())
        try:
            self._answer(_START_S)
        except _LostError as error:
            self.end()
            raise DriftworkError(f"the process that reads raw files does not start: {error}") from None

    def ask(self, item: Item) -> tuple[dict[str, Any], memoryview]:
        """What the child says of an item, and the bytes of its arrays. Raises `_LostError`."""
        try:
            self.connection.send_bytes(json.dumps(item).encode())
        except ConnectionError:
            raise _LostError(self._death()) from None
        data = self._answer(_WAITS * self.limits.seconds)
        end = data.index(b"\n")
        said = json.loads(data[:end])
        if "memory" in said:
            raise _LostError(self._memory)
        return said, memoryview(data)[end + 1 :]

    def _answer(self, seconds: float) -> bytes:
        try:
            if not self.connection.poll(seconds):
                raise _LostError(self._time)
            return self.connection.recv_bytes(maxlength=self.limits.mib * 2**20)
        except (EOFError, ConnectionError):
            raise _LostError(self._death()) from None
        except OSError:  # the length is beyond that
            raise _LostError(self._memory) from None

    @property
    def _time(self) -> str:
        return f"took longer than {self.limits.seconds:g} s"

    @property
    def _memory(self) -> str:
        return f"wanted more than {self.limits.mib} MiB of memory"

    def _death(self) -> str:
        code = self.process.wait()  # its end of the socket is closed: it is gone, or about to be
        if code == -signal.SIGPROF:
            return self._time
        return f"the parser crashed (signal {-code})" if code < 0 else f"the parser ended its process (code {code})"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def main(told: dict[str, Any]) -> None:
    """The child: read what is asked for until the parent goes."""
    end_with_parent(signal.SIGKILL)  # also where a parser hangs
    if os.getppid() != told["parent"]:
        return
    config = _named(told["config"]).model_validate_json(told["settings"])
    reader, source = _named(told["reader"])(config), Path(told["source"])
    resource.setrlimit(resource.RLIMIT_AS, (told["mib"] * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(told["fd"])
    connection.send_bytes(b"ready")
    while True:
        try:
            name, group, files, split = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, told["seconds"])  # its signal ends the process, whatever that does
        outcome = _outcome(reader, source, Item(name, group, tuple(files), split))
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(outcome)


def _outcome(reader: Reader, source: Path, item: Item) -> bytes:
    try:
        return _packed(reader.read(source, item))
    except UnreadableError as error:
        said: dict[str, Any] = {"reason": str(error)}
    except MemoryError:
        said = {"memory": True}
    except Exception as error:  # a reader's mistake, or its library's: the other files are worth no less for it
        said = {"reason": f"the parser failed: {type(error).__name__}: {error}"[:200]}
    return json.dumps(said).encode() + b"\n"


def _packed(sequences: list[Sequence]) -> bytes:
    heads, arrays, at = [], [], 0
    for sequence in sequences:
        fields: dict[str, Any] = {}
        for name, value in sequence._asdict().items():
            if isinstance(value, np.ndarray):
                arrays.append(value.tobytes())
                fields[name] = value.dtype.str, value.shape, at
                at += value.nbytes
            else:
                fields[name] = value
        heads.append(fields)
    return b"".join([json.dumps({"sequences": heads}).encode(), b"\n", *arrays])


def _unpacked(fields: dict[str, Any], body: memoryview) -> Sequence:
    for name in ("times", "values", "mask"):
        kind, shape, at = fields[name]
        fields[name] = np.frombuffer(body, kind, math.prod(shape), at).reshape(shape)
    return Sequence(**fields)


def _name(thing: type) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _named(name: str) -> Any:
    module, _, thing = name.partition(":")
    return getattr(importlib.import_module(module), thing)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
