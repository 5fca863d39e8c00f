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
from driftwork.processes import end_with_parent, python, search_path
from launch.job.signals import sigterm_exits


def most_ranks() -> int:
    """How many ranks this machine has room for: one a GPU, or where there is none one a core."""
    return torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1


def check_ranks(ranks: int) -> None:
    """Raises `DriftworkError` for more ranks than `most_ranks`."""
    if ranks > most_ranks():
        kind = "GPUs" if torch.cuda.is_available() else "cores"
        raise DriftworkError(f"ranks={ranks}: this machine has {most_ranks()} {kind}, and a rank needs one")


def start(module: str, arguments: list[str], ranks: int, stdout: TextIO | None = None) -> int:
    """Run `python -m module arguments` on every rank and wait; returns the exit code, that of the first that failed.

    Each rank gets its share of the cores, unless OMP_NUM_THREADS says otherwise: with small tensors, threads that
    compete for cores cost tenfold. However this process ends, its ranks end with it.
    """
    threads = max(1, (os.cpu_count() or 1) // ranks)
    variables = environment(threads, gpus=torch.cuda.is_available(), given=os.environ)
    ours = command(module, arguments, {"localhost": _devices(ranks)}, 0, "127.0.0.1", free_port())
    with sigterm_exits():
        process = subprocess.Popen(ours, env=variables, stdout=stdout, preexec_fn=end_with_parent, process_group=0)
        # In a process group of its own, as Ctrl-C is this process's to hand on.
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def environment(threads: int, *, gpus: bool, given: Mapping[str, str]) -> dict[str, str]:
    """Of ranks with so many threads each, unless what is given says otherwise."""
    return {
        "OMP_NUM_THREADS": str(threads),
        **given,
        **search_path(),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's to mend
        "DS_ACCELERATOR": "cuda" if gpus else "cpu",  # found by looking, it warns from all ranks
    }


def command(
    module: str, arguments: list[str], world: Mapping[str, Sequence[str]], host: int, address: str, port: int
) -> list[str]:
    """What `deepspeed` itself starts on a machine. Unlike that command, it hands SIGTERM on to the ranks.

    Args:
        world: host -> its devices, one a rank.
        host: which of these it is for.
        address, port: where the ranks meet, on the first host.
    """
    encoded = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    return [
        *python("-m", "deepspeed.launcher.launch"), f"--world_info={encoded}", f"--node_rank={host}",
        "--no_local_rank", "--log_level=error", f"--master_addr={address}", f"--master_port={port}",
        "--module", module, *arguments,
    ]  # fmt: skip


def _devices(ranks: int) -> list[str]:
    """Of those that this user may use, the first ones."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    mine = visible.split(",") if torch.cuda.is_available() and visible else map(str, range(ranks))
    return list(mine)[:ranks]


def launched() -> bool:
    """Whether this process is one of the ranks that a launcher started."""
    return "LOCAL_RANK" in os.environ


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
