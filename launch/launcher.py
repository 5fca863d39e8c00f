"""Start a module on several ranks of this machine under DeepSpeed's launcher."""

import os
import socket
import subprocess
import sys
from typing import TextIO

import torch

from launch.signals import sigterm_exits
from models.errors import DriftworkError


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

    Each rank gets its share of the cores: with small tensors, threads that compete for cores cost tenfold. However
    this process ends, short of SIGKILL, its ranks end with it.
    """
    cuda = torch.cuda.is_available()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's to mend
        "DS_ACCELERATOR": "cuda" if cuda else "cpu",  # found by looking, it warns from every process
    }
    command = [
        sys.executable, "-m", "deepspeed.launcher.runner", *_devices(ranks), "--no_local_rank", "--log_level", "error",
        "--master_addr", "127.0.0.1", "--master_port", str(free_port()), "--module", module, *arguments,
    ]  # fmt: skip
    with sigterm_exits():
        process = subprocess.Popen(command, env=environment, stdout=stdout)
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # DeepSpeed's launcher hands it on to the ranks
            process.wait()
            raise


def _devices(ranks: int) -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available() and visible:
        # Given a number alone, DeepSpeed would forget which devices this user may use, and take the first ones.
        return ["--include", "localhost:" + ",".join(visible.split(",")[:ranks])]
    return ["--num_gpus" if torch.cuda.is_available() else "--num_accelerators", str(ranks)]


def launched() -> bool:
    """Whether this process is one of the ranks that a launcher started."""
    return "LOCAL_RANK" in os.environ


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
