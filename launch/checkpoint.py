"""What a run leaves on disk: `checkpoints/step-N` to go on from, and `best.safetensors` to evaluate.

A checkpoint is written into `step-N.incomplete` by all ranks and renamed when all are done, so that a folder without
that ending is whole; only then does `latest` name it and the one before it go.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from launch.distributed import barrier
from models.errors import DriftworkError
from pipeline.files import aside

if TYPE_CHECKING:
    from launch.engine import Engine  # DeepSpeed takes seconds to load, and reading weights needs none of it

BEST = "best.safetensors"


def save(engine: "Engine", run_folder: Path, step: int, state: dict[str, Any]) -> None:
    """Commit a checkpoint; every rank calls it."""
    root = run_folder / "checkpoints"
    final, incomplete = root / f"step-{step:07d}", root / f"step-{step:07d}.incomplete"
    engine.save(incomplete, state)
    barrier()
    if engine.ranks.rank == 0:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(incomplete, final)
        with aside(root / "latest") as temporary:
            temporary.write_text(final.name)
        for old in root.glob("step-*"):
            if old != final:
                shutil.rmtree(old)
    barrier()


def exists(run_folder: Path) -> bool:
    return (run_folder / "checkpoints" / "latest").exists()


def load(engine: "Engine", run_folder: Path) -> dict[str, Any]:
    """Go back to the latest checkpoint; every rank calls it. Returns the `state` it was saved with."""
    root = run_folder / "checkpoints"
    return engine.load(root / (root / "latest").read_text())


def save_best(engine: "Engine", run_folder: Path) -> None:
    """Weights as safetensors, without pickle; every rank calls it."""
    weights = engine.weights()
    if engine.ranks.rank == 0:
        with aside(run_folder / BEST) as temporary:
            save_file(weights, temporary)


def load_best(model: nn.Module, run_folder: Path, device: torch.device) -> None:
    """Raises `DriftworkError` when there are no weights, or weights of another model."""
    path = run_folder / BEST
    if not path.exists():
        raise DriftworkError(f"{run_folder}: no {BEST}; has the run finished its first epoch?")
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise DriftworkError(f"{path}: does not fit the run's config: {str(error).splitlines()[1].strip()}") from None
    model.to(device)
