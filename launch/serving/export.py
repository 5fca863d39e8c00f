"""Write the best weights of a run as a model that MLflow serves, into RUN/model and to the tracker.

The folder contains all that serving needs: weights, description, and the code of `models`, `driftwork`, `served_model`
and of the plugins that define the model. For a model of a table, which also predicts whole tables, it contains
`pipeline` and `launch` too. Neither the data nor a checkout of Driftwork is needed there.
"""

import logging
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from driftwork import plugins
from driftwork.config_base import flatten
from driftwork.errors import DriftworkError
from driftwork.files import replaced_folder, writing
from driftwork.processes import ROOT
from launch.runs import run_folder
from launch.runs import weights as best
from launch.runs.config import CONFIG_FILE, RunConfig
from launch.serving import served_model, served_table
from launch.tracker import failures, mlflow_store
from launch.tracker.tracking import Tracker
from models.parts.likelihood_choice import LIKELIHOODS
from pipeline.readers.tables.config import TableConfig
from pipeline.shards.manifest import Manifest

FOLDER = "model"
"""Name of the folder within the run folder, and of the logged model: `runs:/RUN_ID/model`."""

_NEEDED, _IF_NAMED = ("numpy", "pydantic", "pyyaml", "safetensors", "torch"), ("torchdiffeq", "torchsde")
"""Packages that every served model imports, and those that only some solvers need."""
_FOR_TABLES = ("pandas", "pyarrow")
"""Packages that a served model of a table imports too."""
_CODE, _CODE_FOR_TABLES = ("models", "driftwork"), ("pipeline", "launch")
"""Packages of this repository that are copied."""

logger = logging.getLogger(__name__)


def after_training(folder: Path, config: RunConfig, manifest: Manifest, tracker: Tracker) -> None:
    """Export to the tracker, if there is one. A failure is only a warning, since training is complete."""
    if tracker.run_id is None:
        return
    try:
        tracker.model(write(folder, config, manifest), flatten(config.model))
    except Exception as error:
        reason = failures.one_line(error)
        logger.warning("the run has no model to serve: %s; to try again, run driftwork export %s", reason, folder)


def write(folder: Path, config: RunConfig, manifest: Manifest) -> Path:
    """Write RUN/model, replacing an earlier one, and return its path.

    Raises:
        DriftworkError: there are no weights, or the folder cannot be written.
    """
    weights, target = folder / best.BEST, folder / FOLDER
    if not weights.exists():
        raise DriftworkError(f"{folder}: no {best.BEST}; train the run for at least one epoch")
    description = _describe(config, manifest)
    tasks = served_model.tasks(description.build())
    table = manifest.spec.table is not None
    loader = Path(str((served_table if table else served_model).__file__))
    packages = [*_NEEDED, *(name for name in _IF_NAMED if name in config.model.model_dump_json())]
    packages += _FOR_TABLES if table else ()
    with writing(str(target)), replaced_folder(target) as temporary, tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "driftwork")
        data.mkdir()
        (data / served_model.DESCRIPTION).write_text(description.model_dump_json(indent=1), encoding="utf-8")
        if table:
            text = _describe_table(config, manifest).model_dump_json(indent=1)
            (data / served_table.DESCRIPTION).write_text(text, encoding="utf-8")
        shutil.copy(folder / CONFIG_FILE, data)
        mlflow_store.save_model(
            temporary,
            loader=loader,
            code=[
                *(ROOT / name for name in (*_CODE, *(_CODE_FOR_TABLES if table else ()))),
                *sorted({plugins.code_of(name) for name in description.plugins}),
            ],
            data=data,
            columns=None if table else served_model.COLUMNS,
            params={
                "task": tasks[0],
                "samples": description.samples,
                "particles": description.particles,
                "seed": 0,
                "decision": "probability",
                **({"until": "", "every": "", "quantiles": [0.05, 0.95]} if table else {}),
            },
            requirements=[f"{name}=={version(name).partition('+')[0]}" for name in packages],
        )
        _link(weights, temporary / "data/driftwork" / served_model.WEIGHTS)
    return target


def _describe(config: RunConfig, manifest: Manifest) -> served_model.Description:
    spec, marginal = manifest.spec, run_folder.marginal(manifest)
    return served_model.Description(
        plugins=_plugins(config),
        model=config.model, likelihood=spec.likelihood, mean=manifest.stats.mean,
        scale=tuple(marginal.scale.tolist()) if isinstance(marginal.scale, Tensor) else marginal.scale,
        table=None if marginal.table is None else served_model.TableSettings(**marginal.table._asdict()),
        sequences=marginal.sequences, binary=spec.binary, units=spec.units, interval=spec.interval, length=spec.length,
        samples=config.evaluate.samples, particles=config.evaluate.particles,
    )  # fmt: skip


def _describe_table(config: RunConfig, manifest: Manifest) -> served_table.TableDescription:
    return served_table.TableDescription(
        spec=manifest.spec,
        stats=manifest.stats,
        dataset=TableConfig.model_validate(manifest.recipe["dataset"]),
        rollout=config.evaluate.predict == "rollout",
        batch_size=config.evaluate.batch_size,
    )


def _plugins(config: RunConfig) -> tuple[str, ...]:
    """Return the modules outside `models` that define the run's model and likelihood."""
    names = [getattr(config.model, "likelihood", None), *getattr(config.model, "likelihoods", ())]
    modules = {type(config.model).__module__, *(LIKELIHOODS[name].make.__module__ for name in names if name)}
    return tuple(sorted(name for name in modules if name.partition(".")[0] != "models"))


def _link(source: Path, target: Path) -> None:
    """Make a hard link if the file system supports it, otherwise a copy. A link is safe, since better weights replace
    the file and do not change it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
