"""Checks of the machine, each with its fault created in a separate environment."""

import os
import socket
import subprocess
import time

import pytest

from launch.checks import machine
from tests.launch.checks.findings import level_of, program


def test_build_tools_are_searched_in_path(home, monkeypatch):
    checks = (machine.compiler, machine.ninja, machine.numactl)
    monkeypatch.setenv("PATH", str(home / "bin"))
    assert [level_of(check()) for check in checks] == ["warning"] * 3
    for name in ("g++", "ninja", "numactl"):
        program(home / "bin", name)
    assert [level_of(check()) for check in checks] == ["ok"] * 3
    monkeypatch.setenv("CXX", "absent++")
    assert machine.compiler().message == str(home / "bin/g++")


@pytest.mark.process
@pytest.mark.parametrize("place", ["py311_cpu/shm", "shm"])
def test_stale_build_lock_is_an_error(home, monkeypatch, place):
    root = home / ".cache/torch_extensions" if "/" in place else home / "extensions"
    if "/" not in place:
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(root))
    assert [level_of(finding) for finding in machine.build_locks()] == ["ok"]
    lock = root / place / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert [level_of(finding) for finding in machine.build_locks()] == ["warning"]
    os.utime(lock, (time.time() - 3600,) * 2)
    (finding,) = machine.build_locks()
    assert (level_of(finding), finding.cure) == ("error", f"rm {lock}")
    builder = subprocess.Popen(["sleep", "60"], cwd=lock.parent)
    try:
        (finding,) = machine.build_locks()
        assert (finding.level, finding.message) == ("ok", "shm is being built")
    finally:
        builder.kill()
        builder.wait()


@pytest.mark.slow
def test_unusable_gpu_is_an_error(home, monkeypatch):
    assert level_of(machine.accelerator(home)) == "ok"
    (home / "nvidia0").touch()
    (home / "nvidiactl").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "nvidia0 hidden by CUDA_VISIBLE_DEVICES=" in machine.accelerator(home).message
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    import torch

    wanted = "ok" if torch.cuda.is_available() else "error"
    assert level_of(machine.accelerator(home)) == wanted


def test_threads_that_compete_are_counted(home, monkeypatch):
    quota = home / "cpu.max"
    quota.write_text("max 100000\n")
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert level_of(machine.threads(1, quota)) == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert machine.threads(1, quota).cure == f"OMP_NUM_THREADS={cores}"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert level_of(machine.threads(cores, quota)) == "ok"
    assert machine.threads(cores + 1, quota).cure == f"set ranks={cores} or fewer"
    quota.write_text("100000 100000\n")  # a container of one core on a larger machine
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert level_of(machine.threads(1, quota)) == ("ok" if cores == 1 else "warning")


def test_unresolvable_host_name_is_an_error(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    finding = machine.hostname()
    assert level_of(finding) == "error"
    assert "127.0.0.1 no-such-host.invalid" in finding.cure


def test_small_disks_and_shared_memory_are_named(home, monkeypatch):
    true = machine.shutil.disk_usage(home)
    for free, level in ((10**8, "error"), (5 * 10**9, "warning"), (10**11, "ok")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, free=free: true._replace(free=free))
        (finding,) = machine.disk({"runs": home / "not/there/yet", "the same disk": home})
        assert level_of(finding) == level
        assert level_of(machine.shared_memory(home)) == ("warning" if free < 10**9 else "ok")
    assert level_of(machine.shared_memory(home / "absent")) == "warning"
