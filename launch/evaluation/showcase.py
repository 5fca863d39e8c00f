"""What a model makes of held-out data: figures to look at, and files in the form that the data came in."""

from pathlib import Path

from launch.evaluation import showcase_forecast, showcase_rolls, showcase_speech
from launch.runs.config import RunConfig
from models.base import Forecaster, Model
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest


def write(folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: Model) -> list[Path]:
    """Write into `folder` what there is for this kind of model and data; returns the files."""
    if isinstance(model, Forecaster) or config.observe.evaluate.frames is not None:
        return showcase_forecast.write(folder, config, manifest, split, model)
    if manifest.spec.kind == "speech":
        return showcase_speech.write(folder, config, manifest, split, model)
    if manifest.spec.kind == "notes":
        return showcase_rolls.write(folder, config, manifest, split, {config.model.name: model})
    return []
