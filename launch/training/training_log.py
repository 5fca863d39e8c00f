"""Log of a training run: lines on rank 0's terminal, and metrics to the tracker."""

import math
import resource
import sys
import time
from typing import Any, NamedTuple

import torch

from launch.runs.distributed import Ranks, all_max, all_sum
from launch.tracker.pending import PendingMetrics
from launch.training.engine import Step
from launch.training.progress import Progress
from launch.training.step_timer import StepTimer
from models.batch import Batch

_EVERY = 10
"""Number of steps between two records; each is the mean over the steps since the last."""

_PHASES = ("forward", "backward", "communication", "update")
"""Phases of a step, measured by the engine's timer. Communication is the vote and the part of the gradients'
reduction that is left when backward ends; both include waiting for slower ranks."""
_CARRIED = ("taken", "steps", "data_seconds", "step_seconds", "grad_norm", "evaluations", "skipped")


class Work(NamedTuple):
    """The operations of a frame, and the nominal rate of the GPUs."""

    operations: float
    """Floating-point operations of a frame, forward and backward."""
    rate: float
    """Nominal operations per second of the matrix products of all ranks' GPUs together."""


class TrainingLog:
    """Sums over ranks and steps. Every rank calls every method; rank 0 prints and logs.

    Args:
        latent: whether the model has a latent, and so a KL to report.
        work: operations that the matrix rate is computed from; given on rank 0, if it runs on a known GPU.
    """

    def __init__(
        self, tracker: PendingMetrics, ranks: Ranks, clock: StepTimer, *, latent: bool, work: Work | None = None
    ) -> None:  # fmt: skip
        self.tracker, self.ranks, self.clock, self.latent, self.work = tracker, ranks, clock, latent, work
        self.skipped = 0
        self._reset()

    def _reset(self) -> None:
        # log-likelihood, KL, scored frames, sequences, frames
        self.sums = torch.zeros(5, dtype=torch.float64, device=self.ranks.device)
        self.taken, self.steps, self.data_seconds, self.step_seconds, self.grad_norm = 0, 0, 0.0, 0.0, 0.0
        self.evaluations: int | None = None

    def state(self) -> dict[str, Any]:
        """Return this rank's sums for the next record."""
        return {"sums": self.sums.tolist(), **{name: getattr(self, name) for name in _CARRIED}}

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Restore the sums from the states of all ranks of an earlier job, which may have had another world size."""
        for state in states[self.ranks.rank :: self.ranks.world]:
            earlier = torch.tensor(state["sums"], dtype=torch.float64)
            self.sums[: len(earlier)] += earlier.to(self.sums.device)  # earlier versions had no frames
        for name in _CARRIED:
            setattr(self, name, states[0][name])

    def step(
        self, progress: Progress, batch: Batch, step: Step, kl_weight: float, lr: float, data_seconds: float,
        step_seconds: float,
    ) -> None:  # fmt: skip
        """Add one step, and make a record every tenth step."""
        terms = step.objective.terms
        real = batch.weight.to(self.ranks.device) > 0
        if step.applied:
            frames = batch.frames_present.sum(1).to(self.ranks.device)
            summed = (*terms, torch.ones_like(real), frames)
            self.sums += torch.stack([(x.detach() * real).sum().double() for x in summed])
            self.grad_norm += step.grad_norm
            if step.objective.evaluations is not None:
                self.evaluations = (self.evaluations or 0) + step.objective.evaluations
            self.steps += 1
        else:
            self.skipped += 1
        self.taken += 1
        self.data_seconds += data_seconds
        self.step_seconds += step_seconds
        if progress.step % _EVERY == 0 and self.steps:
            self._record(progress, kl_weight, lr)
            self._reset()

    def _record(self, progress: Progress, kl_weight: float, lr: float) -> None:
        log_likelihood, kl, frames, sequences, present = all_sum(self.sums).tolist()
        memory = float(all_max(torch.tensor([_peak_bytes(self.ranks.device)], device=self.ranks.device)))
        total = max(self.data_seconds + self.step_seconds, 1e-9)
        spent = {"data": self.data_seconds, **dict.fromkeys(_PHASES, 0.0), **self.clock.seconds()}
        metrics = {
            "train/nll_nats_per_frame": (kl - log_likelihood) / frames,
            "train/learning_rate": lr,
            "train/grad_norm": self.grad_norm / self.steps,
            "train/skipped_steps": float(self.skipped),
            "train/epoch": float(progress.epoch),
            **{f"time/{phase}_s": seconds / self.taken for phase, seconds in spent.items()},
            "time/step_s": (self.data_seconds + self.step_seconds) / self.taken,
            "time/sequences_per_second": sequences / total,
            "time/frames_per_second": present / total,
            "memory/peak_gib": memory / 2**30,
        }
        if self.work is not None:
            metrics["time/matrix_rate_percent"] = 100 * self.work.operations * present / total / self.work.rate
        if self.latent:
            metrics |= {
                "train/reconstruction_nats_per_frame": -log_likelihood / frames,
                "train/kl_nats_per_frame": kl / frames,
                "train/kl_weight": kl_weight,
            }
        if self.evaluations is not None:
            metrics["train/solver_evaluations_per_step"] = self.evaluations / self.steps
        self.tracker.metrics({key: value for key, value in metrics.items() if math.isfinite(value)}, progress.step)
        self.write(
            f"step {progress.step:6d}  epoch {progress.epoch:3d}  nll {metrics['train/nll_nats_per_frame']:8.3f}  "
            + (f"kl {kl / frames:6.3f} nats/frame  beta {kl_weight:.2f}  " if self.latent else "nats/frame  ")
            + f"grad {metrics['train/grad_norm']:.3f}  {metrics['time/sequences_per_second']:.0f} seq/s  "
            + f"{metrics['time/frames_per_second']:.0f} frames/s  "
            + (f"{metrics['time/matrix_rate_percent']:.1f} % of the matrix rate  " if self.work else "")
            + f"{metrics['memory/peak_gib']:.2f} GiB"
            + "".join(f"  {phase} {1000 * seconds / self.taken:.0f}" for phase, seconds in spent.items())
            + " ms/step"
            + (f"  skipped {self.skipped}" if self.skipped else "")
        )

    def validated(self, progress: Progress, found: str, is_best: bool) -> None:
        if self.ranks.rank == 0 and math.isfinite(progress.best):  # not while the horizon still grows
            self.tracker.metrics({"val/best_score": progress.best}, progress.step)
        self.write(
            f"epoch {progress.epoch:3d} ends: validation {found}"
            + (" (best so far)" if is_best else f" (best {progress.best:.4g}, validations since: {progress.stale})")
        )

    def write(self, line: str) -> None:
        if self.ranks.rank == 0:
            print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def _peak_bytes(device: torch.device) -> float:
    """Return the most bytes that were allocated on a GPU at a time, or that this process has used on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
