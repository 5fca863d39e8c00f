"""Start a module on several ranks of this machine under DeepSpeed's launcher."""

import os
import socket
import subprocess
import sys
from typing import TextIO

import torch


def start(module: str, arguments: list[str], ranks: int, stdout: TextIO | None = None) -> int:
    """Run `python -m module arguments` on every rank and wait; returns the exit code, that of the first that failed.

    Each rank gets its share of the cores: with small tensors, threads that compete for cores cost tenfold.
    """
    cuda = torch.cuda.is_available()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's to mend
        "DS_ACCELERATOR": "cuda" if cuda else "cpu",  # found by looking, it warns from every process
    }
    count = ["--num_gpus" if cuda else "--num_accelerators", str(ranks)]
    command = [
        sys.executable, "-m", "deepspeed.launcher.runner", *count, "--no_local_rank", "--log_level", "error",
        "--master_addr", "127.0.0.1", "--master_port", str(free_port()), "--module", module, *arguments,
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, stdout=stdout)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # the launcher got the signal too, and ends its ranks
        return 130


def launched() -> bool:
    """Whether this process is one of the ranks that a launcher started."""
    return "LOCAL_RANK" in os.environ


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
