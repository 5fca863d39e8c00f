"""Fixtures of several folders, and the distribution of tests over processes by pytest-xdist."""

import functools
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from driftwork import config_base
from driftwork.processes import TERMINATED

os.environ["TRITON_INTERPRET"] = "1"
"""Triton reads this variable at its first import, in whichever test, and then interprets kernels on the CPU."""

signal.signal(signal.SIGTERM, lambda signum, frame: pytest.exit("SIGTERM", TERMINATED))
"""A command under test would otherwise turn SIGTERM into the failure of one test."""

APART = {"slow", "ray", "process", "network"}
"""Markers of tests that `make test-fast` leaves out."""


@pytest.fixture(autouse=True)
def no_earlier_warnings():
    """Let each test see the warnings that are printed once per process, whatever tests ran before it."""
    config_base._warn.cache_clear()


@pytest.fixture(scope="session")
def local_ray():
    """Start one Ray for all tests of a session, since that takes 10 to 20 s. `prepare` uses a running one."""
    from pipeline.prepare.cluster import connected

    with connected("local", cpus=2):
        yield


@pytest.fixture
def without_ray(monkeypatch):
    """Let `prepare` build the shards in this process, one after another."""
    from pipeline.prepare.build import build_shard

    def build(job, plans):
        return [build_shard(job, plan) for plan in plans]

    monkeypatch.setattr("pipeline.prepare.prepare._workers", lambda config: nullcontext(build))


_LONGEST = ("local_ray", "test_resume", "test_train", "test_hosts", "test_sweep.py", "test_kernels", "test_engine",
            "test_ray_up", "test_outage")  # fmt: skip
"""Files that take longer than a minute, the longest first; the first entry stands for all files that share a Ray."""


@functools.cache
def _text(path):
    return path.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Assign each file to one process, and all files that use `local_ray` to the same one, with `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::", 1)[0]
            return "ray" if "local_ray" in _text(Path(config.rootpath, file)) else file

    return OneRay(config, log)


def pytest_make_parametrize_id(val, argname):
    """Name a long value after its argument. Values with a time or a process id differ between processes, which must
    agree on the names of the tests."""
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > 40) else None


def pytest_collection_modifyitems(config, items):
    """Put long files first when tests run in several processes, so that quick ones fill the gaps at the end."""

    def place(item):
        names = ["local_ray"] if "local_ray" in _text(item.path) else [item.path.name]
        first = [n for n, name in enumerate(_LONGEST) if names[0].startswith(name)]
        return (first or [len(_LONGEST)])[0], "mark.slow" not in _text(item.path)

    if hasattr(config, "workerinput"):
        items.sort(key=place)


_OUTSIDE: list[str] = []
"""Processes and connections that the current test has started."""


_QUESTIONS = {"git", "uname", "gcc", "cc", "ld", "ldconfig", "objdump", "fc-list"}
"""Programs that end at once: a run reads the commit, and libraries inspect the machine at their first use."""


def _note(event, arguments):
    if event == "subprocess.Popen" and Path(str(arguments[0])).name not in _QUESTIONS:
        _OUTSIDE.append(f"process: starts {arguments[1]}")
    elif event in ("os.fork", "os.posix_spawn"):
        _OUTSIDE.append("process: forks")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        _OUTSIDE.append(f"network: connects to {arguments[1][:2]}")


sys.addaudithook(_note)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    _OUTSIDE.clear()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Fail a test that starts a process or opens a connection without the marker that `make test-fast` leaves out."""
    if _OUTSIDE and not any(mark.name in APART for mark in item.iter_markers()):
        pytest.fail(f"needs a marker: pytest.mark.{_OUTSIDE[0]}", pytrace=False)
