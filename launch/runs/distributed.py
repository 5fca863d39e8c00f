"""Process groups: this process's rank, and the few collectives in use. A single process needs no group."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from driftwork.errors import AgreedError, DriftworkError


class Ranks(NamedTuple):
    rank: int
    world: int
    device: torch.device


def alone() -> Ranks:
    """Return this process as the only rank."""
    return Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def join_ranks(patience: timedelta = timedelta(minutes=10)) -> Ranks:
    """Join the process group that the launcher described in the environment.

    Args:
        patience: longest time that a collective waits for a rank before it is an error.
    """
    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=patience, device_id=device if cuda else None)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def set_tf32(allowed: bool) -> None:
    """Let GPUs round the factors of float32 products and convolutions to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def leave() -> None:
    """Leave the process group. Without this, a clean exit looks like a crash."""
    dist.destroy_process_group()


def all_sum(x: Tensor) -> Tensor:
    """Sum over ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(x)
    return x


def all_max(x: Tensor) -> Tensor:
    """Take the maximum over ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def all_gathered(mine: Any) -> list[Any]:
    """Return the values of all ranks, in the order of ranks, on every rank."""
    if not dist.is_initialized():
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def all_agree(flags: Tensor) -> list[bool]:
    """Return for each of the one-dimensional `flags` whether it is true on every rank."""
    votes = flags.to(torch.int32)
    if dist.is_initialized():
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return [bool(vote) for vote in votes.tolist()]


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def on_rank_0(ranks: Ranks, work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 and return its result on every rank. Its exception is raised on every rank, so that none is
    left waiting."""
    outcome: list[Any] = [None, None]
    if ranks.rank == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    if dist.is_initialized():
        dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[1], DriftworkError):
        raise AgreedError(str(outcome[1]))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
