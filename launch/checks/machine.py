"""Checks of the machine for causes of hangs, slowness and silent failures."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from driftwork.command import TEMPORARY_HOME
from driftwork.processes import python
from driftwork.sockets import problem_of_loaders, problem_of_ray
from launch.checks.finding import Finding, error, ok, warning

_GB = 10**9
_BUILD_STARTS_S = 60
"""Maximum seconds from a build's lock to its first process."""


def compiler() -> Finding:
    found = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        return warning(
            "compiler",
            "no C++ compiler in PATH: torch.compile and DeepSpeed's own kernels fail",
            "apt install g++, or set CXX",
        )
    return ok("compiler", found)


def ninja() -> Finding:
    found = shutil.which("ninja")
    if found is not None:
        return ok("ninja", found)
    beside = Path(sys.executable).with_name("ninja")
    cure = f"put {beside.parent} into PATH" if beside.exists() else "pip install ninja"
    return warning("ninja", "none in PATH: DeepSpeed's own kernels cannot be built", cure)


def build_locks() -> Iterator[Finding]:
    """Look for locks of builds: a process killed while it builds an extension leaves one, on which others wait
    forever."""
    roots = os.environ.get("TORCH_EXTENSIONS_DIR"), Path.home() / ".cache/torch_extensions"
    root = Path(next(root for root in roots if root))
    locks = sorted([*root.glob("*/lock"), *root.glob("*/*/lock")])
    for lock in locks:
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            continue  # the build just ended
        if _at_work_in(lock.parent):
            yield ok("build lock", f"{lock.parent.name} is being built")
        elif age < _BUILD_STARTS_S:
            yield warning("build lock", f"{lock} is {age:.0f} s old", "if nothing is being built, delete it")
        else:
            yield error(
                "build lock",
                f"{lock} was left by a process that has ended: loading {lock.parent.name} hangs",
                f"rm {lock}",
            )
    if not locks:
        yield ok("build lock", f"none in {root}")


def accelerator(devices: Path = Path("/dev")) -> Finding:
    """Check that torch can use this machine's GPUs, in a separate process and only if there is a GPU."""
    there = sorted(path.name for path in devices.glob("nvidia[0-9]*")) or (
        ["kfd"] if (devices / "kfd").exists() else []
    )
    if not there:
        return ok("accelerator", "no GPU: training runs on the CPU")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if os.environ.get(name, "0").strip() in ("", "-1"):
            message = f"{', '.join(there)} hidden by {name}={os.environ[name]}: training runs on the CPU"
            return warning("accelerator", message, f"unset {name}")
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.__version__)"
    try:
        answer = subprocess.run(python("-c", code), capture_output=True, text=True, timeout=120)
        count, version = answer.stdout.split()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return warning(
            "accelerator",
            f"{', '.join(there)} found, but torch cannot be imported",
            "see the error of python -c 'import torch'",
        )
    if int(count):
        return ok("accelerator", f"{count} GPU(s) by torch {version}")
    why = " ".join(answer.stderr.split())[-200:]
    return error(
        "accelerator",
        f"{', '.join(there)} found, but torch {version} cannot use it{': ' + why if why else ''}",
        "install a torch built for this driver's CUDA (see nvidia-smi), or allow access to /dev/nvidia*",
    )


def numactl() -> Finding:
    if shutil.which("numactl") is None:
        return warning(
            "numactl",
            "absent: deepspeed --bind_cores_to_rank fails",
            "omit --bind_cores_to_rank, or apt install numactl",
        )
    return ok("numactl", str(shutil.which("numactl")))


def disk(folders: dict[str, Path]) -> Iterator[Finding]:
    """Check the free space for runs, data and temporary files; `folders` need not exist yet."""
    seen = set()
    for name, folder in folders.items():
        here = folder.absolute()
        while not here.exists():
            here = here.parent
        if here.stat().st_dev in seen:
            continue
        seen.add(here.stat().st_dev)
        free = shutil.disk_usage(here).free
        message = f"{free / _GB:.1f} GB free for {name} ({here})"
        if free < _GB:
            yield error("disk", message, "delete old runs (checkpoints take the most space), or give another folder")
        elif free < 10 * _GB:
            yield warning(
                "disk", message, "free some space: a run keeps several checkpoints of weights and optimizer state"
            )
        else:
            yield ok("disk", message)


def shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Check /dev/shm, through which loader workers pass batches and which holds Ray's objects."""
    if not path.is_dir():
        return warning("/dev/shm", "absent: Ray keeps its objects in /tmp", "mount a tmpfs there")
    size = shutil.disk_usage(path)
    message = f"{size.free / _GB:.1f} of {size.total / _GB:.1f} GB free"
    if size.free < _GB:
        cure = "docker run --shm-size=8g, or in Kubernetes an emptyDir of medium Memory; else loader_workers=0"
        return warning(
            "/dev/shm", f"{message}: loader workers may die of a bus error, and Ray keeps its objects in /tmp", cure
        )
    return ok("/dev/shm", message)


def sockets() -> Iterator[Finding]:
    """Check that paths of temporary folders are short enough for Unix sockets."""
    ray, loaders = problem_of_ray(), problem_of_loaders()
    if ray is not None:
        yield error("sockets", *ray)
    if loaders is not None:
        yield warning("sockets", *loaders)
    if ray is None and loaders is None:
        yield ok("sockets", f"paths in {tempfile.gettempdir()} are short enough")


def home() -> Finding:
    """Check the home folder, which holds caches, logins and tokens."""
    folder = Path.home()
    if folder.name.startswith(TEMPORARY_HOME):
        message = (
            f"HOME is not a folder and user {os.getuid()} has no home folder: files in it are lost after each command"
        )
        return warning("home", message, "export HOME=FOLDER, for caches, logins and Ray's token")
    if not os.access(folder, os.W_OK):
        return warning(
            "home", f"{folder} is not writable: nothing is cached", "export HOME=FOLDER, a folder that you can write to"
        )
    return ok("home", str(folder))


def threads(ranks: int, quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> Finding:
    """Check for threads that compete for cores, which makes small tensors ten times slower."""
    cores = _cores(quota)
    each = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(each) if each.isdecimal() else max(1, (os.cpu_count() or 1) // ranks)
    message = f"{ranks} rank(s) of {wanted} thread(s) on {cores} core(s)"
    if ranks * wanted > max(cores, ranks):
        return warning("threads", message, f"OMP_NUM_THREADS={max(1, cores // ranks)}")
    if ranks > cores:
        return warning("threads", message, f"set ranks={cores} or fewer")
    return ok("threads", message)


def hostname() -> Finding:
    """Check that the host's name resolves: otherwise gloo and Ray hang or take the loopback address."""
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0])
    except OSError as problem:
        cure = f"add a line '127.0.0.1 {name}' to /etc/hosts (its true address where there are several hosts)"
        return error("host name", f"{name} does not resolve ({problem.strerror}): ranks cannot meet", cure)
    return ok("host name", f"{name} is {address}")


def _cores(quota: Path) -> int:
    """Return the number of cores that this process may use, within the limit of its container."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        used, period = quota.read_text().split()
        return max(1, min(may, int(used) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return may


def _at_work_in(folder: Path) -> bool:
    """Return whether a process has the folder as its working directory, as ninja does while it builds."""
    for process in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if process.readlink() == folder.resolve():
                return True
        except OSError:
            continue
    return False
