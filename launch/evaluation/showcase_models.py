"""Several models on one held-out sequence, as in figure 3 of Liu et al. (2020)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from launch.evaluation import showcase_rolls, showcase_speech, showcase_table
from launch.runs import run_folder, weights
from models.base import Forecaster, LatentDynamics, Smoother
from pipeline.sequence import Split


def write(folder: Path, runs: Sequence[Path], split: Split) -> list[Path]:
    """Interpolate one sequence of `split` with the best weights of each run, and return the files written.

    The sequence is observed at the lowest rate of the first run. There are no files if a model only forecasts, or if
    the data are neither piano rolls nor sound nor a table.

    Args:
        runs: run folders of different models, trained on the same data.
    """
    models: dict[str, LatentDynamics | Smoother] = {}
    configs = [run_folder.at_hand(run, run_folder.config_of(run)) for run in runs]
    manifest = run_folder.manifest_of(configs[0])
    for run, config in zip(runs, configs, strict=True):
        model = run_folder.model_for(config, manifest)
        if isinstance(model, Forecaster):
            return []
        weights.load_best(model, run, torch.device("cpu"))
        models[config.model.name] = model.eval()
    if manifest.spec.kind == "speech":
        return showcase_speech.compare(folder, configs[0], manifest, split, models)
    if manifest.spec.kind == "table":
        return showcase_table.compare(folder, configs[0], manifest, split, models)
    if manifest.spec.kind == "notes":
        return showcase_rolls.write(folder, configs[0], manifest, split, models)
    return []
