"""One host of several, started by `launch.job.hosts` through ssh as `python -m launch.job.node SECONDS`.

    the launcher's lines, JSON                  this host's
    a `Question`                                MARK and an `Answer`; the launcher ends here if a host cannot take part
    {"command": [...], "environment": {...}}    the command's output, and its exit code
    LEAVE                                       ranks get SIGTERM, and time to save

Meanwhile an empty line comes every second and a NUL byte is sent back. Neither ssh nor a cut cable notifies the remote
side of a lost launcher: when stdin has ended, or been silent for SECONDS, the command and this process are ended.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from driftwork.processes import end_with_parent, python

MARK = "driftwork-node "
"""Prefix of the answer, since a login script may print lines before it."""

LEAVE = "leave"

_TIDY_S = 40.0
"""Seconds that ranks may take to end when requested; DeepSpeed's launcher kills them after 30 s."""
_DEVICES = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


class Question(NamedTuple):
    """The launcher's request to a host, which checks whether it can take part."""

    directory: str
    """Working directory."""
    shared: list[str]
    """Paths that must exist as on the launching machine."""
    first: bool
    """Whether the other hosts connect to this one."""
    address: str
    """Address at which the other hosts reach the first one."""
    peer: str
    """Another host: the first one, or on the first host the second."""
    port: int | None
    """Port on which the first host listens; None for any free one."""


class Answer(NamedTuple):
    """A host's reply to a `Question`."""

    problem: str = ""
    """Reason why this host cannot take part; empty if it can."""
    gpus: bool = False
    devices: tuple[str, ...] = ()
    """Numbers or names of the host's GPUs, or of its cores if it has no GPU."""
    cores: int = 1
    interface: str = ""
    """Network interface that leads to the peer, if it can be found."""
    port: int = 0


def main(argv: list[str]) -> int:
    lines = _lines_of_launcher(float(argv[0]))
    threading.Thread(target=_beat, daemon=True).start()
    question = next(lines, None)
    if question is None:
        return 1
    print(MARK + json.dumps(answer(Question(**json.loads(question)))._asdict()), flush=True)
    order = next(lines, None)
    if order is None:
        return 1
    what = json.loads(order)
    process = subprocess.Popen(
        what["command"], env=os.environ | what["environment"], stdin=subprocess.DEVNULL,
        start_new_session=True, preexec_fn=end_with_parent,
    )  # fmt: skip
    threading.Thread(target=_end_when_left, args=(lines, process), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def answer(question: Question) -> Answer:
    """Check this host for the launcher, which cannot do so remotely."""
    try:
        os.chdir(question.directory)
        for path in question.shared:
            if not Path(path).exists():
                return Answer(f"{path} is not there; all hosts need one file system for data and runs")
        port = _free_port(question.port) if question.first else 0
        if not question.first and _resolved(question.address).startswith("127."):
            return Answer(f"resolves {question.address}, the first host, to itself; give hosts.address=ADDRESS")
    except OSError as error:
        return Answer(f"{error.filename or ''}: {error.strerror}".removeprefix(": "))
    gpus, cores = 0, os.cpu_count() or 1
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists():  # otherwise torch need not be loaded
        found = subprocess.run(python("-c", _DEVICES), capture_output=True, text=True)
        if found.returncode:
            return Answer(f"torch does not load there: {[*found.stderr.splitlines(), 'it was killed'][-1]}")
        gpus = int(found.stdout.split()[-1])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if gpus and visible else [str(number) for number in range(gpus or cores)]
    return Answer("", gpus > 0, tuple(names), cores, _interface(question.peer), port)


def _free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", wanted or 0))
        except OSError as error:
            raise OSError(error.errno, f"hosts.port={wanted}: {error.strerror}") from None
        return int(probe.getsockname()[1])


def _resolved(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except socket.gaierror:
        raise OSError(0, f"{name}, the first host, has no address there; give hosts.address=ADDRESS") from None


def _interface(peer: str) -> str:
    """Return the network interface towards the peer. By default gloo takes that of the host's own name, which often is
    the loopback."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))  # sends nothing
            mine = probe.getsockname()[0]
    except OSError:
        return ""
    names = (name for name, all_of_it in psutil.net_if_addrs().items() for has in all_of_it if has.address == mine)
    return "" if mine.startswith("127.") else next(names, "")


def _lines_of_launcher(silence: float) -> Iterator[bytes]:
    """Yield the lines on stdin that are not empty, until it ends or is silent for `silence` seconds."""
    pending = b""
    while select.select([0], [], [], silence)[0]:
        read = os.read(0, 65536)
        if not read:
            return
        *lines, pending = (pending + read).split(b"\n")
        yield from filter(None, lines)


def _beat() -> None:
    with suppress(OSError):  # nobody listens any more, which stdin shows too
        while True:
            os.write(1, b"\0")
            time.sleep(1)


def _end_when_left(lines: Iterator[bytes], process: subprocess.Popen[bytes]) -> None:
    for line in lines:
        if line.decode() == LEAVE:
            for rank in psutil.Process(process.pid).children():  # DeepSpeed's launcher would give them 30 s
                rank.terminate()
    process.terminate()
    try:
        process.wait(_TIDY_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    os._exit(1)  # other threads may wait for a stdout that nobody reads


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
