"""`driftwork export RUN`: the best weights of a run as a model that MLflow serves, in RUN/model and at the tracker.

Training ends with the same. The folder holds all that answers take: weights, description, the code of `models/` and of
`served`; neither the data nor the rest of Driftwork is needed where it is served.
"""

import logging
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from launch import run_folder, served
from launch.config import CONFIG_FILE, RunConfig
from launch.entry import command, run
from launch.tracker import failures, mlflow_store
from launch.tracker.tracking import OfStore, Tracker
from launch.training import checkpoint
from models.config_base import flatten, parse
from models.errors import DriftworkError
from pipeline.files import replaced_folder, writing
from pipeline.manifest import Manifest, read_manifest

USAGE = """usage: driftwork export RUN [tracking.uri=STORE]
RUN is a run folder, or the id of a run in the store; afterwards: mlflow models serve -m RUN/model"""

FOLDER = "model"
"""In the run folder, and the name of the logged model: `runs:/RUN_ID/model`."""

_NEEDED, _IF_NAMED = ("numpy", "pydantic", "pyyaml", "safetensors", "torch"), ("torchdiffeq", "torchsde")
"""Packages that a served model imports: all, and those that its config names as a solver."""
_ROOT = Path(__file__).resolve().parent.parent

logger = logging.getLogger(__name__)


@command(USAGE, most=2)
def main(argv: list[str]) -> int:
    request = parse(OfStore, argv[1:], where="export")
    folder = run_folder.find(argv[0], request.tracking.uri)
    config = run_folder.config_of(folder, request.tracking)
    manifest = run_folder.divided(config, read_manifest(config.data))
    written = write(folder, config, manifest)
    with run_folder.tracked(folder, config) as tracker:
        tracker.model(written, flatten(config.model))
    print(f"{written}: serve it with: mlflow models serve -m {written} --env-manager local")
    return 0


def after_training(folder: Path, config: RunConfig, manifest: Manifest, tracker: Tracker) -> None:
    """Export to the tracker, where there is one. What fails here does not fail a training that is done."""
    if tracker.run_id is None:
        return
    try:
        tracker.model(write(folder, config, manifest), flatten(config.model))
    except Exception as error:
        said = failures.one_line(error)
        logger.warning("the run has no model to serve: %s; driftwork export %s tries again", said, folder)


def write(folder: Path, config: RunConfig, manifest: Manifest) -> Path:
    """RUN/model, in the place of one that is there.

    Raises:
        DriftworkError: there are no weights, or it cannot be written.
    """
    weights, target = folder / checkpoint.BEST, folder / FOLDER
    if not weights.exists():
        raise DriftworkError(f"{folder}: no {checkpoint.BEST}; has the run finished its first epoch?")
    description = _describe(config, manifest)
    tasks = served.tasks(description.build())
    packages = [*_NEEDED, *(name for name in _IF_NAMED if name in config.model.model_dump_json())]
    with writing(str(target)), replaced_folder(target) as temporary, tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "driftwork")
        data.mkdir()
        (data / served.DESCRIPTION).write_text(description.model_dump_json(indent=1), encoding="utf-8")
        shutil.copy(folder / CONFIG_FILE, data)
        mlflow_store.save_model(
            temporary,
            loader=Path(served.__file__),
            code=[_ROOT / "models"],
            data=data,
            columns=served.COLUMNS,
            params={
                "task": tasks[0],
                "samples": description.samples,
                "particles": description.particles,
                "seed": 0,
                "decision": "probability",
            },
            requirements=[f"{name}=={version(name).partition('+')[0]}" for name in packages],
        )
        _link(weights, temporary / "data/driftwork" / served.WEIGHTS)
    return target


def _describe(config: RunConfig, manifest: Manifest) -> served.Description:
    spec, marginal = manifest.spec, run_folder.marginal(manifest)
    return served.Description(
        model=config.model, likelihood=spec.likelihood, mean=manifest.stats.mean, scale=marginal.scale,
        sequences=marginal.sequences, binary=spec.binary, units=spec.units, interval=spec.interval, length=spec.length,
        samples=config.evaluate.samples, particles=config.evaluate.particles,
    )  # fmt: skip


def _link(source: Path, target: Path) -> None:
    """The same file under another name, where the file system can do so: better weights replace it, and do not change
    it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


if __name__ == "__main__":
    raise SystemExit(run("export", main, sys.argv[1:]))
