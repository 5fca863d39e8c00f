"""Read raw files in a child process with limits: a parser that crashes, hangs or exhausts memory costs one file.

A guard has one child, `python -m pipeline.prepare.guard`, which reads file after file; a child that dies is replaced.
It answers with JSON and the bytes of plain arrays, so that a compromised child cannot run code in this process.
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
"""Seconds that a child may take to start: on a busy machine, or a slow network disk, imports take a while."""
_WAITS = 10
"""Limit of wall-clock time as a multiple of processor time: a parser can hang without computing."""


class Limits(NamedTuple):
    """Limits for reading one raw file."""

    seconds: float
    """Seconds of processor time, so that a busy machine makes no file unreadable."""
    mib: int
    """Memory of the whole process that reads the file, MiB."""


class _LostError(UnreadableError):
    """Error for a child that can no longer be used. The message is the reason."""


@lru_cache(maxsize=1)
def guard(reader: Reader, source: Path | None, limits: Limits) -> "Guard":
    """Return this process's guard. It is kept from shard to shard, as starting a child takes as long as reading some
    hundred files."""
    return Guard(reader, source, limits)


class Guard:
    """A reader that is safe from crashes, because a child process reads the files. Items without files are read in
    this process."""

    def __init__(self, reader: Reader, source: Path | None, limits: Limits) -> None:
        self.reader, self.source, self.limits = reader, source, limits
        self._child: _Child | None = None

    def read(self, item: Item) -> list[Sequence]:
        """Read an item. Raises `UnreadableError` with the reason, and `DriftworkError` if no child can be started.

        A file counts as unreadable only if it fails in a new child, since an earlier file may have damaged the old one.
        """
        if not item.files:
            return self.reader.read(self.source, item)
        if self._child is not None:
            try:
                return self._request(self._child, item)
            except _LostError:
                pass
        self._child = _Child(self.reader, self.source, self.limits)
        return self._request(self._child, item)

    def _request(self, child: "_Child", item: Item) -> list[Sequence]:
        try:
            head, body = child.request(item)
        except BaseException:  # a late answer must not be read as that of the next file
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
    """The parent's end of the child process."""

    def __init__(self, reader: Reader, source: Path | None, limits: Limits) -> None:
        self.limits = limits
        config = reader.config  # type: ignore[attr-defined]  # every reader of files has one, and is made of it
        here, there = socket.socketpair()
        with there:
            settings = {
                "reader": _name(type(reader)), "config": _name(type(config)), "settings": config.model_dump_json(),
                "source": str(source), **limits._asdict(), "parent": os.getpid(), "fd": there.fileno(),
            }  # fmt: skip
            one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # each thread takes memory
            self.process = subprocess.Popen(
                python("-m", "pipeline.prepare.guard", json.dumps(settings)),
                env=os.environ | one | search_path(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                process_group=0,  # a Ctrl-C must reach only the parent, which ends the child
            )
        self.connection = Connection(here.detach())
        try:
            self._answer(_START_S)
        except _LostError as error:
            self.end()
            raise DriftworkError(
                f"the process that reads raw files does not start: {error}; free memory, or set a larger mib_per_file"
            ) from None

    def request(self, item: Item) -> tuple[dict[str, Any], memoryview]:
        """Request an item: return the child's JSON answer and the bytes of its arrays. Raises `_LostError`."""
        try:
            self.connection.send_bytes(json.dumps(item).encode())
        except ConnectionError:
            raise _LostError(self._death()) from None
        data = self._answer(_WAITS * self.limits.seconds)
        end = data.index(b"\n")
        reply = json.loads(data[:end])
        if "memory" in reply:
            raise _LostError(self._memory)
        return reply, memoryview(data)[end + 1 :]

    def _answer(self, seconds: float) -> bytes:
        try:
            if not self.connection.poll(seconds):
                raise _LostError(self._time)
            return self.connection.recv_bytes(maxlength=self.limits.mib * 2**20)
        except (EOFError, ConnectionError):
            raise _LostError(self._death()) from None
        except OSError:  # the length exceeds the limit
            raise _LostError(self._memory) from None

    @property
    def _time(self) -> str:
        return f"took longer than {self.limits.seconds:g} s"

    @property
    def _memory(self) -> str:
        return f"needed more than {self.limits.mib} MiB of memory"

    def _death(self) -> str:
        code = self.process.wait()  # its end of the socket is closed: it has ended, or is about to
        if code == -signal.SIGPROF:
            return self._time
        return f"the parser crashed (signal {-code})" if code < 0 else f"the parser ended its process (code {code})"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def main(settings: dict[str, Any]) -> None:
    """Read requested items in the child until the parent ends."""
    end_with_parent(signal.SIGKILL)  # also where a parser hangs
    if os.getppid() != settings["parent"]:
        return
    config = _named(settings["config"]).model_validate_json(settings["settings"])
    reader, source = _named(settings["reader"])(config), Path(settings["source"])
    resource.setrlimit(resource.RLIMIT_AS, (settings["mib"] * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(settings["fd"])
    connection.send_bytes(b"ready")
    while True:
        try:
            name, group, files, split = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, settings["seconds"])  # its signal ends the process in any state
        outcome = _outcome(reader, source, Item(name, group, tuple(files), split))
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(outcome)


def _outcome(reader: Reader, source: Path, item: Item) -> bytes:
    try:
        return _packed(reader.read(source, item))
    except UnreadableError as error:
        reply: dict[str, Any] = {"reason": str(error)}
    except MemoryError:
        reply = {"memory": True}
    except Exception as error:  # an error of a reader or of its library must not affect the other files
        reply = {"reason": f"the parser failed: {type(error).__name__}: {error}"[:200]}
    return json.dumps(reply).encode() + b"\n"


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
