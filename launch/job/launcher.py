"""Start a module on several ranks of this machine under DeepSpeed's launcher."""

import base64
import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import TextIO

import torch

from driftwork.errors import DriftworkError
from driftwork.processes import end_with_parent, python, search_path, sigterm_exits
from launch.job.quick_start import LAUNCH
from launch.job.signals import ctrl_z_stops_all

_OF_A_JOB = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE", "TORCHELASTIC_",
)  # fmt: skip
"""Beginnings of the names of the environment variables by which torchrun describes a rank and its job."""


def gpus() -> int:
    """Return the number of GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def most_ranks() -> int:
    """Return the number of ranks that this machine can run: one per GPU, or one per core without GPUs."""
    return gpus() or os.cpu_count() or 1


def check_ranks(ranks: int) -> None:
    """Raise `DriftworkError` for more ranks than `most_ranks`."""
    if ranks > most_ranks():
        kind = "GPUs" if torch.cuda.is_available() else "cores"
        most = most_ranks()
        raise DriftworkError(f"ranks={ranks}: this machine has {most} {kind}, and a rank needs one; set ranks={most}")


def start(module: str, arguments: list[str], ranks: int, stdout: TextIO | None = None) -> int:
    """Run `python -m module arguments` on every rank and return the exit code of the first that failed, or 0.

    Each rank gets its share of the cores unless OMP_NUM_THREADS is set: with small tensors, threads that compete for
    cores are ten times slower. The ranks end with this process, for any reason.
    """
    threads = max(1, (os.cpu_count() or 1) // ranks)
    variables = environment(threads, gpus=torch.cuda.is_available(), given=os.environ)
    ours = command(module, arguments, {"localhost": _devices(ranks)}, 0, "127.0.0.1", free_port())
    with sigterm_exits(), ctrl_z_stops_all():
        process = subprocess.Popen(ours, env=variables, stdout=stdout, preexec_fn=end_with_parent, process_group=0)
        # The ranks are in another process group, since this process passes Ctrl-C on.
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def environment(threads: int, *, gpus: bool, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of ranks with `threads` threads each, unless `given` sets another number."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_FR_BUFFER_SIZE": "1000",  # collectives that torch's flight recorder keeps, see `collectives`
        **outside_any_job(given),
        **search_path(),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # only DeepSpeed can fix the cause
        "DS_ACCELERATOR": "cuda" if gpus else "cpu",  # without it, detection warns from all ranks
    }


def outside_any_job(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables without those by which an outer job, such as torchrun's, describes its ranks.
    Any process of ours that had them would count as one of our ranks."""
    return {name: value for name, value in variables.items() if not name.startswith(_OF_A_JOB)}


def command(
    module: str, arguments: list[str], world: Mapping[str, Sequence[str]], host: int, address: str, port: int
) -> list[str]:
    """Return the command that `deepspeed` itself starts on a machine. Unlike `deepspeed`, it passes SIGTERM to ranks.

    Args:
        world: map from each host to its devices, one per rank.
        host: index of the host that runs the command.
        address, port: rendezvous of the ranks, on the first host.
    """
    encoded = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    return [
        *python("-c", LAUNCH), f"--world_info={encoded}", f"--node_rank={host}",
        "--no_local_rank", "--log_level=error", f"--master_addr={address}", f"--master_port={port}",
        "--module", module, *arguments,
    ]  # fmt: skip


def _devices(ranks: int) -> list[str]:
    """Return the first `ranks` devices that this user may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    mine = visible.split(",") if torch.cuda.is_available() and visible else map(str, range(ranks))
    return list(mine)[:ranks]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
