"""Run tasks on Ray, on this machine or on a cluster. This is the only module that imports Ray."""

import os
import secrets
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# Ray reads these when it is imported. By its defaults of 5 and 2 minutes, a driver waits for a machine whose cable was
# cut long after the cluster has declared it dead.
os.environ.setdefault("RAY_grpc_client_keepalive_time_ms", "10000")
os.environ.setdefault("RAY_grpc_client_keepalive_timeout_ms", "10000")

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from driftwork import sockets
from driftwork.errors import DriftworkError
from driftwork.processes import ROOT, TERMINATED, search_path

_STARTS = 3
"""Number of attempts to start a local Ray."""
_PATIENCE_S = 150.0
"""Seconds that cancelled tasks may take to clean up."""


class TaskDiedError(Exception):
    """Error for a task whose process died in all attempts: by a crash, for lack of memory, or with its machine."""


class Task(NamedTuple):
    key: int
    arguments: tuple[Any, ...]
    cpus: float = 1.0
    """Number of CPUs that are reserved for the task, beside `gpus` GPUs. A number below 1 shares a device."""
    gpus: float = 0.0


class Nodes(NamedTuple):
    """Numbers of devices of all machines together, and of the largest machine."""

    cpus: int
    gpus: int
    cpus_of_one: int
    gpus_of_one: int


@contextmanager
def connected(address: str, cpus: int | None = None) -> Iterator[Nodes]:
    """Connect to Ray: start one (`local`, with `cpus` of this machine), join a cluster, or use this process's Ray.

    Raises:
        DriftworkError: no cluster answers at `address`, or Ray does not start.
    """
    if ray.is_initialized():
        yield _nodes()
        return
    if address == "local":
        if os.environ.get("PYTHONPATH"):
            os.environ["PYTHONPATH"] = search_path()["PYTHONPATH"]  # workers stand in another folder
        sockets.require(sockets.problem_of_ray(), "address=local")
        if not os.access(Path.home(), os.W_OK):  # Ray would write a token there
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _init(address, options)
    except SystemExit:  # by the handler that Ray installs, with another code
        raise SystemExit(TERMINATED) from None
    if on_sigterm is not signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has replaced the caller's handler
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray makes it readable for everyone, and whoever has it can run code here
    try:
        yield _nodes()
    finally:
        ray.shutdown()


def _init(address: str, options: dict[str, Any]) -> None:
    """Start or join Ray. If a busy machine keeps a local Ray from starting within its 30 s, it is started again,
    because gathering a table may have taken an hour by then."""
    for attempt in range(1, _STARTS + 1):
        try:
            with chdir(ROOT):  # Ray puts this process's working folder first in the workers' import path
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
            return
        except Exception as error:  # a Ray that is too slow to start raises a plain Exception
            if address == "local" and "timed out" in str(error) and attempt < _STARTS:
                continue
            reason = " ".join(str(error).split())
            if address == "local":
                cure = "end Ray processes that are left over, or free memory"
                raise DriftworkError(f"address=local: Ray does not start: {reason}; {cure}") from error
            what, cure = (
                "no Ray cluster accepts the connection",
                "start the cluster, or copy its token to this machine",
            )
            raise DriftworkError(f"address={address}: {what}: {reason}; {cure}") from error


def share(value: object) -> ray.ObjectRef:
    """Store a value that Ray sends once to each machine, however many tasks have it as an argument."""
    return ray.put(value)


def work(
    function: Callable[..., Any], waiting: deque[Task], at_once: int, *, retries: int
) -> Generator[tuple[int, Callable[[], Any]], None, None]:
    """Run `function(*task.arguments)` for each of `waiting`, at most `at_once` at a time.

    Yields the key of each task as it ends, with a function that returns or raises the task's result, or raises
    `TaskDiedError` if its process died `1 + retries` times. Tasks that are added to `waiting` meanwhile are run too.
    If the iterator is closed early, also by an exception, running tasks get a KeyboardInterrupt and time to clean up.
    """
    running: dict[Future[Any], tuple[int, ray.ObjectRef]] = {}
    remote = ray.remote(max_retries=retries)(_cancellable)
    try:
        while waiting or running:
            while waiting and len(running) < max(1, at_once):  # a cluster may have no CPU yet
                task = waiting.popleft()
                options = {"name": function.__name__, "num_cpus": task.cpus, "num_gpus": task.gpus}
                ref = remote.options(**options).remote(function, *task.arguments)
                running[ref.future()] = task.key, ref
            # Not ray.wait, which would turn an exception of a signal handler into another.
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                key, ref = running.pop(future)
                yield key, partial(_result, ref)
    finally:
        for _, ref in running.values():
            ray.cancel(ref)
        wait(running, timeout=_PATIENCE_S)


def _cancellable(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task with SIGINT enabled: Ray cancels by SIGINT, which a worker ignores if its driver ignored it, as under
    nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return function(*arguments)


def _result(ref: ray.ObjectRef) -> Any:
    try:
        return ray.get(ref)
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        raise TaskDiedError(str(error)) from error
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:  # the cluster failed, for example its head is gone
        reason = " ".join(str(error).split())
        raise DriftworkError(f"Ray failed: {reason}; check the cluster with ray status") from error


def _nodes() -> Nodes:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = ([int(node.get(kind, 0)) for node in alive] for kind in ("CPU", "GPU"))
    return Nodes(sum(cpus), sum(gpus), max(cpus), max(gpus))
