"""Run ranks on the hosts of DeepSpeed's hostfile: start the ranks of each host through ssh, watch them, and end all
together.

Each host runs `launch.job.node`, in the same folder of a file system that all hosts share.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, TextIO

from driftwork.errors import DriftworkError
from driftwork.processes import end_with_parent, python, search_path, sigterm_exits
from launch.job import launcher, node
from launch.job.hostfile import Host, HostsConfig, read
from launch.job.node import Answer, Question
from launch.job.signals import handled, signals_ignored

_PATIENCE_S = 60.0
"""Maximum time for hosts to end, in seconds."""
_SAVING_S = 300.0
"""Maximum time for ranks to save and end, in seconds."""
_FIRST_WORD_S = 120.0
"""Maximum time for a host to start Python through ssh, in seconds; its file system may be remote."""
_ANSWER_S = 300.0
"""Maximum time for a host to answer, in seconds; it may have to load torch first."""
_SSH_FAILED = 255
"""Exit code of ssh when the connection failed or broke."""
_TRAVELS = (
    "AWS_", "AZURE_", "FSSPEC_", "GLOO_", "GOOGLE_", "LD_LIBRARY_PATH", "MKL_", "MLFLOW_", "NCCL_", "OMP_",
    "PYTHONHASHSEED", "TORCH_", "UCX_", "WDS_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY",
)  # fmt: skip
"""Prefixes of the environment variables that are passed on to ranks. Visible devices are each host's own."""


class AwayError(DriftworkError):
    """Error for a host that cannot be reached or cannot take part. Nothing has been started."""


def start(module: str, arguments: list[str], file: Path, config: HostsConfig, shared: list[Path]) -> int:
    """Run `python -m module arguments` on every slot of every host and wait until all have ended.

    Ranks end with this process and with the connection, for any reason.

    Args:
        shared: paths that must exist on all hosts as they do here.

    Returns:
        The exit code: that of the first host that failed, or 0.

    Raises:
        AwayError: a host cannot take part, and nothing has been started.
    """
    hosts = read(file)
    with sigterm_exits(), handled(_refuse_to_stop, signal.SIGTSTP), _connected(hosts, config) as connections:
        address = config.address or hosts[0].name.rpartition("@")[2]
        for connection in connections:
            other = hosts[1] if connection.host == hosts[0] and len(hosts) > 1 else hosts[0]
            peer = address if other == hosts[0] else other.name.rpartition("@")[2]
            first, paths = connection.host == hosts[0], [str(path.absolute()) for path in shared]
            question = Question(str(Path.cwd()), paths, first, address, peer, config.port)
            connection.send(json.dumps(question._asdict()))
        answers = _answers(connections, file)
        world = {host.name: answer.devices[: host.slots] for host, answer in zip(hosts, answers, strict=True)}
        for number, (connection, answer) in enumerate(zip(connections, answers, strict=True)):
            command = launcher.command(module, arguments, world, number, address, answers[0].port)
            threads = max(1, answer.cores // connection.host.slots)
            variables = {
                **({"GLOO_SOCKET_IFNAME": answer.interface} if answer.interface else {}),
                **launcher.environment(threads, gpus=answer.gpus, given=_traveling()),
            }
            connection.send(json.dumps({"command": command, "environment": variables}))
        try:
            return _watched(connections)
        except (SystemExit, KeyboardInterrupt):
            print(f"driftwork: all hosts save, which may take {_SAVING_S:.0f} s", file=sys.stderr, flush=True)
            with signals_ignored(signal.SIGTERM):  # launchers tend to send it twice; another Ctrl-C ends the wait
                _leave(connections)
            raise


def _refuse_to_stop(signum: int, frame: FrameType | None) -> None:
    """Continue after Ctrl-Z: other hosts would count a stopped process as lost."""
    os.write(2, b"\ndriftwork: Ctrl-Z cannot stop ranks on other hosts; Ctrl-C saves and ends them\n")


class _Connection:
    """The connection to one host, whose output is printed line by line after the host's name."""

    def __init__(self, host: Host, config: HostsConfig) -> None:
        self.host = host
        variables = [f"{name}={value}" for name, value in search_path().items()]
        far = ["env", *variables, *python("-m", "launch.job.node", str(config.silence))]
        self.process = subprocess.Popen(
            [*shlex.split(config.ssh), host.name, *map(shlex.quote, far)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env=launcher.outside_any_job(os.environ),
            start_new_session=True, preexec_fn=end_with_parent,  # this process passes Ctrl-C on
        )  # fmt: skip
        self.heard = time.monotonic()
        self.patience = max(_FIRST_WORD_S, config.silence)
        self.silence = config.silence
        self.answer: Answer | None = None
        self.complaint = ""
        """The last line on stderr."""
        self.threads = [
            threading.Thread(target=self._relay, args=(source, sink), daemon=True)
            for source, sink in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        ]
        for thread in self.threads:
            thread.start()

    def send(self, what: str = "") -> None:
        """Send a line to the host; an empty line is a sign of life."""
        assert self.process.stdin is not None
        with suppress(OSError):  # the exit code of the process shows how the connection ended
            self.process.stdin.write(f"{what}\n".encode())

    @property
    def lost(self) -> str:
        """Return the reason why the host counts as lost, or an empty string."""
        if self.process.poll() is not None:
            for thread in self.threads:
                thread.join(5)
            return self.complaint or f"the connection ended with exit code {self.process.returncode}"
        silent = time.monotonic() - self.heard
        return f"no sign of life for {silent:.0f} s" if silent > self.patience else ""

    def end(self) -> None:
        """Make the host end its ranks."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def _relay(self, source: IO[bytes], sink: TextIO) -> None:
        pending = b""
        while read := source.read(65536):
            self.heard, self.patience = time.monotonic(), self.silence
            *lines, pending = (pending + read.replace(b"\0", b"")).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace").rstrip("\r"), sink)
        if pending:
            self._take(pending.decode(errors="replace"), sink)

    def _take(self, line: str, sink: TextIO) -> None:
        if self.answer is not None:
            print(f"{self.host.name}: {line}", file=sink, flush=True)
        elif sink is sys.stderr:
            self.complaint = line or self.complaint
        elif line.startswith(node.MARK):
            fields = json.loads(line.removeprefix(node.MARK))
            self.answer = Answer(**fields)


@contextmanager
def _connected(hosts: list[Host], config: HostsConfig) -> Iterator[list[_Connection]]:
    connections: list[_Connection] = []
    try:
        for host in hosts:
            try:
                connections.append(_Connection(host, config))
            except OSError as error:
                raise DriftworkError(f"hosts.ssh={config.ssh}: {error.strerror}; give another command") from None
        yield connections
    finally:
        with signals_ignored():
            for connection in connections:
                connection.end()
                if connection.answer is None:  # ssh may still be connecting
                    connection.process.terminate()
            deadline = time.monotonic() + _PATIENCE_S
            for connection in connections:
                # A host that no longer answers ends its ranks by itself; this cannot be hastened from here.
                limit = 0.0 if connection.lost else deadline - time.monotonic()
                try:
                    connection.process.wait(max(0.0, limit))
                except subprocess.TimeoutExpired:
                    connection.process.kill()
                    connection.process.wait()
                for thread in connection.threads:
                    thread.join(1)


def _answers(connections: list[_Connection], file: Path) -> list[Answer]:
    """Collect the answers of all hosts. Raises `AwayError` with the problem of each unavailable host."""
    wrong: dict[str, str] = {}
    waiting, deadline = list(connections), time.monotonic() + _ANSWER_S
    while waiting:
        time.sleep(0.1)
        for connection in connections:
            connection.send()
        for connection in list(waiting):
            late = f"no answer for {_ANSWER_S:.0f} s" if time.monotonic() > deadline else ""
            problem = connection.lost or late if connection.answer is None else connection.answer.problem
            if connection.answer is not None or problem:
                waiting.remove(connection)
            if problem:
                wrong[connection.host.name] = problem
    answers = [connection.answer for connection in connections if connection.answer is not None]
    for connection in connections:
        answer, slots = connection.answer, connection.host.slots
        if answer is not None and not answer.problem and slots > len(answer.devices):
            kind = "GPUs" if answer.gpus else "cores"
            wrong[connection.host.name] = f"slots={slots}, but it has {len(answer.devices)} {kind}"
    if not wrong and len({answer.gpus for answer in answers}) > 1:
        without = [c.host.name for c in connections if c.answer is not None and not c.answer.gpus]
        wrong = dict.fromkeys(without, "has no GPU, but other hosts have some")
    if wrong:
        problems = "; ".join(f"{name}: {problem}" for name, problem in wrong.items())
        raise AwayError(f"hostfile={file}: nothing was started: {problems}")
    return answers


def _watched(connections: list[_Connection]) -> int:
    while True:
        for connection in connections:
            connection.send()
            ended = connection.process.poll()
            if ended == 0:
                continue
            lost = connection.lost
            if lost:
                code = 1 if ended is None or ended == _SSH_FAILED else ended
                what = f"ended with exit code {code}" if code == ended else f"is lost: {lost}"
                print(f"driftwork: host {connection.host.name} {what}; all others are ended", file=sys.stderr)
                return code
        if all(connection.process.poll() == 0 for connection in connections):
            return 0
        time.sleep(0.5)


def _leave(connections: list[_Connection]) -> None:
    """Make all ranks save and end, and wait for them."""
    for connection in connections:
        connection.send(node.LEAVE)
    deadline = time.monotonic() + _SAVING_S
    while time.monotonic() < deadline and not any(connection.lost for connection in connections):
        for connection in connections:
            connection.send()
        time.sleep(0.5)


def _traveling() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_TRAVELS)}
