"""Outputs of a model for held-out data: figures, and files in the format of the data."""

from collections.abc import Callable
from pathlib import Path

from driftwork.errors import DriftworkError
from driftwork.registry import source_of
from launch.evaluation import showcase_forecast, showcase_rolls, showcase_speech, showcase_table
from launch.runs.config import RunConfig
from models.base import Forecaster, Model
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest

Draw = Callable[[Path, RunConfig, Manifest, Split, Model], list[Path]]
"""Function from (folder, config, manifest, split, trained model) to the files that it has written into the folder."""

ADDED: dict[str, Draw] = {}
"""Figures of plugins by name."""


def add(name: str, draw: Draw) -> None:
    """Register a function that writes figures, or other files, into the run's `outputs/` in each evaluation.

    Raises:
        DriftworkError: the name is taken.
    """
    if name in ADDED and source_of(ADDED[name]) != source_of(draw):
        raise DriftworkError(f"figure '{name}' exists already, from {source_of(ADDED[name])}; choose another name")
    ADDED[name] = draw


def write(folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: Model) -> list[Path]:
    """Write the outputs for this kind of model and data, and the figures of plugins, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _for_kind(folder, config, manifest, split, model)
    for draw in ADDED.values():
        written += draw(folder, config, manifest, split, model)
    return written


def _for_kind(folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: Model) -> list[Path]:
    if manifest.spec.kind == "table":
        return showcase_table.write(folder, config, manifest, split, model)
    if isinstance(model, Forecaster) or config.observe.evaluate.forecasts:
        return showcase_forecast.write(folder, config, manifest, split, model)
    if manifest.spec.kind == "speech":
        return showcase_speech.write(folder, config, manifest, split, model)
    if manifest.spec.kind == "notes":
        return showcase_rolls.write(folder, config, manifest, split, {config.model.name: model})
    return []
