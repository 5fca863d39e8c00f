"""The DeepSpeed seam: one process group, one engine, one step.

The step: the whole objective inside one `forward`, a vote of all ranks on whether it is finite, backward, and an update
that happens on every rank or on none.
"""

import importlib
import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from launch.config import OptimConfig
from launch.distributed import Ranks, all_agree
from launch.stopwatch import Stopwatch
from models.base import Objective
from models.batch import Batch

# On CPU `init_distributed` would compile a shared-memory kernel: minutes on a first start, and a process killed
# meanwhile leaves a lock on which every later start waits for ever. Only inference uses that kernel.
setattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)  # noqa: B010

_PATIENCE = timedelta(minutes=10)
"""How long a collective may wait for a rank before it is an error."""


class Step(NamedTuple):
    objective: Objective
    applied: bool
    grad_norm: float
    """Before clipping."""


def join_ranks() -> Ranks:
    """Join the process group that the launcher described in the environment."""
    cuda = torch.cuda.is_available()
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local)
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", timeout=_PATIENCE, verbose=False)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def leave() -> None:
    """A group that is not destroyed makes a clean exit look like a crash."""
    dist.destroy_process_group()


class Engine:
    """A model under DeepSpeed.

    Args:
        frame_scale: by what the loss in nats per sequence is divided, so that a clipping norm means the same thing
            whatever the length of the sequences.
    """

    def __init__(self, model: nn.Module, optim: OptimConfig, ranks: Ranks, frame_scale: int) -> None:
        self.ranks, self.optim, self.frame_scale = ranks, optim, frame_scale
        self.size = sum(p.numel() for p in model.parameters())
        """Weights of the model; at stage 3 a rank holds only its share of each."""
        adam = torch.optim.Adam(model.parameters(), lr=optim.lr)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adam,
            lr_scheduler=torch.optim.lr_scheduler.StepLR(adam, optim.lr_decay_steps, optim.lr_decay),
            config=_deepspeed_config(optim),
            dist_init_required=False,
        )
        self.clock = Stopwatch(ranks.device)
        # Called at the end of backward: what of the reduction has not been hidden behind it.
        self.engine.allreduce_gradients = self.clock.timed("communication", self.engine.allreduce_gradients)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.engine.module
        return module

    def step(self, batch: Batch, kl_weight: float) -> Step:
        """One update from this rank's share of a step."""
        with self.clock("forward"):
            objective: Objective = self.engine(batch.to(self.ranks.device), kl_weight)
            loss = (objective.loss * batch.weight.to(self.ranks.device)).sum() / self.frame_scale
        with self.clock("communication"):
            finite = all_agree(torch.isfinite(loss))
        if not finite:
            return Step(objective, False, float("nan"))
        with self.clock("backward"):
            self.engine.backward(loss)
        norm = self._norm_at_stage_0() if self.optim.zero_stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            self.engine.optimizer.zero_grad()  # the other stages look for themselves; stage 0 would update with NaN
            return Step(objective, False, norm)
        with self.clock("update"):
            self.engine.step()
        if norm is None:
            norm = float(self.engine.get_global_grad_norm())
        return Step(objective, bool(self.engine.was_step_applied()), norm)

    def weights(self) -> dict[str, Tensor]:
        """All weights and buffers, whole, on the CPU; every rank calls it."""
        divided = list(self.module.parameters()) if self.optim.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(divided):
            return {name: x.detach().cpu().clone() for name, x in self.module.state_dict().items()}

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Weights, optimizer and `state` into `folder`; every rank calls it."""
        self.engine.save_checkpoint(str(folder), tag="state", client_state={"app": state}, save_latest=False)

    def load(self, folder: Path) -> dict[str, Any]:
        """What `save` wrote, on every rank; returns `state`."""
        _, client = self.engine.load_checkpoint(str(folder), tag="state")
        state: dict[str, Any] = client["app"]
        return state

    def _norm_at_stage_0(self) -> float:
        """DeepSpeed gives none there; backward has averaged the gradients, so that every rank finds the same."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))


def _deepspeed_config(optim: OptimConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only uses it to print; our loss is normalised already
        "zero_optimization": {"stage": optim.zero_stage},
        "gradient_clipping": optim.clip_norm,
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": optim.autocast, "dtype": "bfloat16"},
        "steps_per_print": 1_000_000_000,
    }
