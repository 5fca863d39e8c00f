"""Start a module on several ranks of this machine under DeepSpeed's launcher."""

import base64
import json
import os
import socket
import subprocess
import sys
from typing import TextIO

import torch

from launch.signals import end_with_parent, sigterm_exits
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

    Each rank gets its share of the cores, unless OMP_NUM_THREADS says otherwise: with small tensors, threads that
    compete for cores cost tenfold. However this process ends, its ranks end with it.
    """
    environment = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks)),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's to mend
        "DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu",  # found by looking, it warns from all ranks
    }
    # This is what `deepspeed` itself starts on a machine. Unlike that command, it hands SIGTERM on to the ranks.
    command = [
        sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={_world(ranks)}", "--no_local_rank",
        "--log_level=error", "--master_addr=127.0.0.1", f"--master_port={free_port()}", "--module", module, *arguments,
    ]  # fmt: skip
    with sigterm_exits():
        process = subprocess.Popen(command, env=environment, stdout=stdout, preexec_fn=end_with_parent)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _world(ranks: int) -> str:
    """Host -> devices, as DeepSpeed's launcher reads it. Of the devices that this user may use, the first ones."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    mine = visible.split(",")[:ranks] if torch.cuda.is_available() and visible else list(range(ranks))
    return base64.urlsafe_b64encode(json.dumps({"localhost": mine}).encode()).decode()


def launched() -> bool:
    """Whether this process is one of the ranks that a launcher started."""
    return "LOCAL_RANK" in os.environ


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
