"""Tasks on Ray: results in the order in which tasks end, their errors, and cancellation."""

import os
import signal
import threading
import time
from collections import deque
from contextlib import closing

import pytest

from driftwork.errors import DriftworkError
from pipeline.prepare import cluster

pytestmark = pytest.mark.ray


def half(x):
    if x % 2:
        raise OSError(f"{x} is odd")
    return x // 2


def die():
    os._exit(1)


def endless(folder):
    """Run like a task that supervises a process and needs a while to stop."""
    (folder / "began").touch()
    try:
        while True:
            time.sleep(0.1)
    except BaseException:
        time.sleep(1)
        (folder / "cleaned up").touch()
        raise


def test_results_come_by_key(local_ray):
    """Tasks that are added while others run have results too."""
    waiting = deque(cluster.Task(x, (x,), cpus=0.5) for x in range(4))
    found = {}
    with cluster.connected("local"), closing(cluster.work(half, waiting, 2, retries=0)) as ended:
        for key, result in ended:
            try:
                found[key] = result()
            except OSError as error:
                found[key] = type(error), str(error)
                waiting.append(cluster.Task(10 * key, (10 * key,)))
    # The original error, not Ray's wrapper around it.
    assert found == {0: 0, 1: (OSError, "1 is odd"), 2: 1, 3: (OSError, "3 is odd"), 10: 5, 30: 15}


def test_dead_process_differs_from_failed_task(local_ray):
    waiting = deque([cluster.Task(0, ())])
    with closing(cluster.work(die, waiting, 1, retries=0)) as ended:
        ((_, result),) = ended
        with pytest.raises(cluster.TaskDiedError):
            result()


class TakenDownError(Exception):
    pass


def test_signal_stops_tasks_and_lets_them_clean_up(local_ray, tmp_path):
    """An exception of the signal's handler reaches the waiting caller."""

    def take_down(*_):
        raise TakenDownError

    def send():
        while not (tmp_path / "began").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, take_down)
    threading.Thread(target=send, daemon=True).start()
    try:
        with (
            pytest.raises(TakenDownError),
            closing(cluster.work(endless, deque([cluster.Task(0, (tmp_path,))]), 1, retries=0)) as ended,
        ):
            next(ended)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "cleaned up").exists()


@pytest.mark.parametrize(("said", "attempts"), [("The current node timed out during startup.", 3), ("no room", 1)])
def test_ray_that_starts_too_slowly_is_tried_again(monkeypatch, said, attempts):
    asked = []

    def init(**options):
        asked.append(options["address"])
        raise Exception(said)

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(DriftworkError, match=f"Ray does not start: {said}"), cluster.connected("local"):
        pass
    assert asked == ["local"] * attempts
