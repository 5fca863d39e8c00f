"""The interface to DeepSpeed: one process group, one engine, one step.

A step is the whole objective inside one `forward`, a vote of all ranks on whether it is finite, the backward pass, and
an update that happens on every rank or on none.
"""

import argparse
import contextlib
import importlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from driftwork.errors import AgreedError
from driftwork.files import sha256, write_error_reason
from launch.job.quick_start import deepspeed_alone
from launch.runs.config import OptimConfig
from launch.runs.distributed import Ranks, all_agree, all_gathered
from launch.training.average import WeightAverage
from launch.training.step_timer import StepTimer
from models.base import Objective, TrainableModel
from models.batch import Batch

with deepspeed_alone():
    import deepspeed
    import deepspeed.runtime.zero.muon.muon_optimizer
    from deepspeed.checkpoint import ds_to_universal
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

# On CPU `init_distributed` would compile a shared-memory kernel. That takes minutes on a first start, and a process
# killed meanwhile leaves a lock on which every later start waits forever. Only inference uses that kernel.
setattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)  # noqa: B010


class Step(NamedTuple):
    objective: Objective
    applied: bool
    grad_norm: float
    """Norm of the gradient before clipping."""
    leave: bool = False
    """Whether any rank was requested to save and stop. All ranks get the same value in the same step."""


class Engine:
    """A model under DeepSpeed.

    Args:
        frame_scale: divisor of the loss in nats per sequence, so that a clipping norm has the same meaning for
            sequences of any length.
        accumulate: number of micro-batches of a step, which a rank computes one after another.
    """

    def __init__(
        self, model: nn.Module, optim: OptimConfig, ranks: Ranks, frame_scale: int, accumulate: int = 1
    ) -> None:  # fmt: skip
        self.ranks, self.optim, self.frame_scale, self.accumulate = ranks, optim, frame_scale, accumulate
        self.size = sum(p.numel() for p in model.parameters())
        """Number of weights of the model; at stage 3 a rank holds only a part of each."""
        adam = torch.optim.Adam(model.parameters())
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)  # it uses the existing group
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adam,
            config=_deepspeed_config(optim),
            dist_init_required=False,
        )
        self.planner = model.planner() if isinstance(model, TrainableModel) else None
        self.average = WeightAverage(self.module, optim.ema) if optim.ema > 0 else None
        self.files = _Files()
        self.engine.checkpoint_engine = self.files
        # It copies a script that extracts weights from a checkpoint. We store these ourselves, and a copy that fails,
        # as on a full disk, fails on rank 0 only, while the others wait for it.
        setattr(self.engine, "_copy_recovery_script", lambda folder: None)  # noqa: B010
        self.clock = StepTimer(ranks.device)
        # Called at the end of backward: the part of the reduction that does not overlap with it.
        self.engine.allreduce_gradients = self.clock.timed("communication", self.engine.allreduce_gradients)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.engine.module
        return module

    def step(self, batch: Batch, kl_weight: float, lr: float, leave: bool = False) -> Step:
        """Update the weights from this rank's part of a step.

        With `leave`, all ranks learn that this one was requested to save and stop."""
        *first, last = batch.parts(self.accumulate)
        done: list[tuple[Objective, Tensor]] = []
        self.engine.set_gradient_accumulation_boundary(not first)
        for part in first:
            objective, loss = self._forward(part, kl_weight)
            with self.clock("backward"):
                self.engine.backward(loss)
            done.append((objective.detached(), loss.detach()))  # without the graph, which holds the memory
        self.engine.set_gradient_accumulation_boundary(True)
        objective, loss = self._forward(last, kl_weight)
        losses = torch.stack([*(earlier for _, earlier in done), loss.detach()])
        with self.clock("communication"):
            finite, stay = all_agree(torch.stack([losses.isfinite().all(), torch.full_like(loss, not leave).bool()]))
        objective = Objective.joined([*(earlier for earlier, _ in done), objective])
        if not finite and not first:
            return Step(objective, False, float("nan"), not stay)
        with self.clock("backward"):
            # Gradients of earlier micro-batches are in DeepSpeed's buffers. A gradient of NaN discards them too.
            self.engine.backward(loss if finite else loss * math.nan)
        norm = self._norm_at_stage_0() if self.optim.zero_stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            self.engine.optimizer.zero_grad()  # the other stages check for it; stage 0 would update with NaN
            return Step(objective, False, norm, not stay)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        with self.clock("update"):
            self.engine.step()
        applied = bool(self.engine.was_step_applied())
        if applied and self.average is not None:
            self.average.update()
        if norm is None:
            norm = float(self.engine.get_global_grad_norm())
        return Step(objective, applied, norm, not stay)

    def _forward(self, batch: Batch, kl_weight: float) -> tuple[Objective, Tensor]:
        """Return the objective of a micro-batch and its part of the step's loss."""
        with self.clock("forward"):
            batch = batch.planned(self.planner).to(self.ranks.device)
            objective: Objective = self.engine(batch, kl_weight)
            return objective, (objective.loss * batch.weight).sum() / self.frame_scale

    def weights(self) -> dict[str, Tensor]:
        """Return all weights that are scored, and buffers, undivided and on the CPU; every rank calls it."""
        with self.open():
            # Copies run side by side, and are waited for once.
            weights = {
                name: x.detach().to("cpu", non_blocking=True, copy=True) for name, x in self.module.state_dict().items()
            }
            if self.ranks.device.type == "cuda":
                torch.cuda.synchronize(self.ranks.device)
        return weights

    @contextmanager
    def open(self) -> Iterator[None]:
        """Prepare the model for scoring within the context: with the average of the weights if one is kept, and for
        calls of other methods than `forward`. Every rank makes the same calls.

        At stage 3 DeepSpeed gathers a module's weights only during calls of its `forward`, which training uses."""
        averaged = nullcontext() if self.average is None else self.average.in_place()
        with averaged, deepspeed.zero.GatheredParameters(self._divided()):
            yield

    def save(self, folder: Path) -> dict[str, str]:
        """Save weights, their average and the optimizer to `folder`, flushed to the disk; every rank calls it.

        Returns the SHA-256 of the files by name. Raises `DriftworkError` on all ranks if one cannot write.
        """
        self.files.written, self.files.problem = {}, ""
        averaged = {} if self.average is None else {"average": self.average.state()}
        self.engine.save_checkpoint(str(folder.parent), tag=folder.name, client_state=averaged, save_latest=False)
        everyone = all_gathered((self.files.written, self.files.problem))
        problems = [f"{problem} (rank {rank})" for rank, (_, problem) in enumerate(everyone) if problem]
        if problems:
            raise AgreedError(f"{folder.parent}: cannot be written: {problems[0]}; free space there")
        return {name: sha for written, _ in everyone for name, sha in written.items()}

    def load(self, folder: Path) -> None:
        """Load a checkpoint of `save` with the same world size, or one of `to_universal`; every rank calls it."""
        with _without_pickle():
            self.engine._config.load_universal_checkpoint = (folder / "zero").exists()
            _, others = self.engine.load_checkpoint(str(folder.parent), tag=folder.name)
        if self.average is not None and "average" in others:
            self.average.load(others["average"])
        elif self.average is not None:  # the checkpoint has no average
            self.average.restart()

    def _divided(self) -> list[nn.Parameter]:
        return list(self.module.parameters()) if self.optim.zero_stage == 3 else []

    def _norm_at_stage_0(self) -> float:
        """Return the gradient's norm at stage 0, where DeepSpeed gives none. Gradients are averaged over ranks by then,
        so that every rank computes the same norm."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))


class _Files(CheckpointEngine):
    """A writer of DeepSpeed's files that flushes them to the disk and hashes them. It stores problems instead of
    raising them, since between DeepSpeed's barriers other ranks would wait for the one that raised."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, str] = {}
        self.problem = ""

    def create(self, info: CheckpointCommitInfo) -> None: ...

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        with self._kept():
            super().makedirs(path, exist_ok)

    def save(self, state_dict: Any, path: str) -> None:
        with self._kept(), Path(path).open("wb") as file:
            torch.save(state_dict, file)
            file.flush()
            os.fsync(file.fileno())
            self.written[Path(path).name] = sha256(Path(path))

    def load(self, path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=True)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError on a full disk
            self.problem = write_error_reason(error)


def to_universal(source: Path, target: Path) -> None:
    """Convert a ZeRO-1/2 checkpoint of `save` to the universal format, which any world size can load."""
    options = argparse.Namespace(
        input_folder=str(source), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=True,
    )  # fmt: skip
    with _without_pickle(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)
    target.with_name("latest_universal").unlink()


@contextmanager
def _without_pickle() -> Iterator[None]:
    """Restrict torch.load within the context, although DeepSpeed calls it with `weights_only=False`, to tensors, plain
    values and three small classes of DeepSpeed's own. Anything else is an error."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _deepspeed_config(optim: OptimConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only uses it to print; our loss is normalised already
        # At stage 3 small weights are divided too: the default excludes those below 1e5 numbers, which here are most.
        "zero_optimization": {"stage": optim.zero_stage, "stage3_param_persistence_threshold": 0},
        "gradient_clipping": optim.clip_norm,
        "zero_allow_untested_optimizer": True,
        # With its own list of safe modules, DeepSpeed would also send their gradients in bfloat16, and results would
        # depend on the world size.
        "torch_autocast": {"enabled": optim.autocast, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        "steps_per_print": 1_000_000_000,
    }
