"""Weights in a run folder, without pickle: the run's best ones, and those of another run that it started from."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from driftwork.errors import DriftworkError, unwritable
from driftwork.files import aside, sha256, write_error_reason

BEST = "best.safetensors"
INITIAL = "initial.safetensors"
"""A copy of the other run's best weights, so that this run can begin again even if the other run has changed."""


def write(weights: dict[str, torch.Tensor], run_folder: Path) -> None:
    """Replace the weights of a run. Raises `DriftworkError` when they cannot be written; earlier ones are intact."""
    path = run_folder / BEST
    try:
        with aside(path) as temporary:
            save_file(weights, temporary)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, write_error_reason(error)) from None


def load_best(model: nn.Module, run_folder: Path, device: torch.device) -> None:
    """Load the best weights of a run into its model, on `device`.

    Raises:
        DriftworkError: there are no weights, or they are damaged or do not fit the model.
    """
    _load(model, _best_of(run_folder))
    model.to(device)


def copy_initial(source: Path, run_folder: Path) -> str:
    """Copy the best weights of the run `source` into a new run's folder, and return their SHA-256."""
    with aside(run_folder / INITIAL) as temporary:
        shutil.copyfile(_best_of(source), temporary)
    return sha256(run_folder / INITIAL)


def load_initial(model: nn.Module, run_folder: Path) -> None:
    """Load the weights that the run starts from. Raises `DriftworkError` as `load_best` does."""
    _load(model, run_folder / INITIAL)


def check_fit(model: nn.Module, run_folder: Path) -> None:
    """Raise `DriftworkError` with the names that differ if the best weights of a run do not fit the model."""
    there = _shapes(_best_of(run_folder))
    here = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    different = [
        f"{name} is {_shown(there.get(name))} in that run and {_shown(here.get(name))} in this one"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if different:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        raise DriftworkError(
            f"its weights do not fit this model and data: {', '.join(different[:3])}{more}; "
            "take the model settings and the kind of data of that run"
        )


def _best_of(run_folder: Path) -> Path:
    path = run_folder / BEST
    if not path.exists():
        raise DriftworkError(f"{run_folder}: no {BEST}; train the run for at least one epoch")
    return path


def _shapes(path: Path) -> Mapping[str, Sequence[int]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DriftworkError(f"{path}: is damaged: {error}; copy the run folder again") from None


def _shown(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DriftworkError(f"{path}: is damaged: {error}; copy the run folder again") from None
    except RuntimeError as error:
        raise DriftworkError(
            f"{path}: does not fit the run's config: {str(error).splitlines()[1].strip()}; both must be of one run"
        ) from None
