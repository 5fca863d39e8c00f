"""The best weights of a run, `best.safetensors` in its folder, without pickle."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from driftwork.errors import DriftworkError
from driftwork.files import aside, write_error_reason

BEST = "best.safetensors"


def write(weights: dict[str, torch.Tensor], run_folder: Path) -> None:
    """Replace the weights of a run. Raises `DriftworkError` when they cannot be written; earlier ones are intact."""
    path = run_folder / BEST
    try:
        with aside(path) as temporary:
            save_file(weights, temporary)
    except (OSError, SafetensorError) as error:
        raise DriftworkError(f"{path}: cannot be written: {write_error_reason(error)}") from None


def load_best(model: nn.Module, run_folder: Path, device: torch.device) -> None:
    """Load the best weights of a run into its model, on `device`.

    Raises:
        DriftworkError: there are no weights, or they are damaged or do not fit the model.
    """
    path = run_folder / BEST
    if not path.exists():
        raise DriftworkError(f"{run_folder}: no {BEST}; has the run finished its first epoch?")
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise DriftworkError(f"{path}: is damaged: {error}; copy the run folder again") from None
    except RuntimeError as error:
        raise DriftworkError(f"{path}: does not fit the run's config: {str(error).splitlines()[1].strip()}") from None
    model.to(device)
