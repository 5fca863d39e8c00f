"""A run folder: `config.yaml` as resolved, `run.json`, checkpoints, weights, results. `RUN` on a command line is such a
folder or the MLflow id of its run."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from launch.config import CONFIG_FILE, RunConfig
from launch.scoring.scores import Scoring
from launch.tracker.mlflow_store import find_run_folder
from launch.tracker.tracking import NullTracker, Tracker, TrackingConfig, open_run
from models.base import Model
from models.config_base import at_home, dump, load
from models.errors import DriftworkError
from models.likelihoods import Marginal
from models.registry import build_model
from pipeline.cache import find_manifest, is_copied, local
from pipeline.files import aside, writing
from pipeline.folds import divide
from pipeline.lock import locked
from pipeline.manifest import Manifest, read_manifest
from pipeline.storage import name_of
from pipeline.verify import verify

_RECORD = "run.json"
_LOCK = "train.lock"
_PATIENCE_S = 60.0


def create(config: RunConfig) -> Path:
    """Make the folder and write the config into it. Raises `DriftworkError` when it holds a run already."""
    folder = Path(str(config.out))
    if (folder / CONFIG_FILE).exists():
        raise DriftworkError(f"out={folder} holds a run already; go on with resume={folder}, or choose another out")
    with writing(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / CONFIG_FILE, dump(config))
    return folder


def find(run: str) -> Path:
    """The folder of `RUN`, a path or an MLflow run id."""
    folder = at_home(run)
    if not (folder / CONFIG_FILE).exists():
        if folder.exists() or "/" in run:
            raise DriftworkError(f"{run}: no run folder (it has no {CONFIG_FILE})")
        folder = find_run_folder(str(TrackingConfig().uri), run)
    return folder


def keep(folder: Path, config: RunConfig) -> None:
    """Put `config` in the place of the run's config."""
    _write(folder / CONFIG_FILE, dump(config))


def config_of(folder: Path) -> RunConfig:
    return load(RunConfig, folder / CONFIG_FILE)


def names(config: RunConfig) -> tuple[str, str]:
    """What the tracker calls the experiment, after the data, and the run, after what tells it from its neighbours."""
    return name_of(config.data), f"{config.model.name} seed {config.train.seed}"


def record_of(folder: Path) -> dict[str, Any]:
    """What `remember` has noted so far."""
    path = folder / _RECORD
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return record


def remember(folder: Path, **facts: Any) -> None:
    """Note facts about the run: its MLflow id, the manifest it was trained on."""
    _write(folder / _RECORD, json.dumps({**record_of(folder), **facts}, indent=2) + "\n")


def check_data(folder: Path, config: RunConfig) -> None:
    """The run's own data set, undamaged, on this machine."""
    verify(at_hand(folder, config, thorough=True).data)


def at_hand(folder: Path, config: RunConfig, *, thorough: bool = False) -> RunConfig:
    """The config with the run's own data set in a folder on this machine, in the place of the URL that it may have:
    weights fit no other, and figures of one run from two would not compare. `thorough` is that of `pipeline.cache`."""
    trained_on = record_of(folder).get("manifest")
    manifest = find_manifest(config.data, config.cache_dir, trained_on)
    if trained_on is not None and manifest.hash != trained_on:
        raise DriftworkError(f"data={config.data} is not what {folder} was trained on (manifest {trained_on[:12]})")
    return config.model_copy(update={"data": local(config.data, config.cache_dir, manifest, thorough=thorough)})


def manifest_of(config: RunConfig) -> Manifest:
    """Read the manifest of data that lie in a folder on this machine, divided as the run asks."""
    return divided(config, read_manifest(config.data))


def divided(config: RunConfig, manifest: Manifest) -> Manifest:
    """Return the manifest of the run's fold, or `manifest` itself where the run has none. Data in a store are copied to
    this machine first."""
    if config.folds is None:
        return manifest
    return divide(local(config.data, config.cache_dir, manifest, thorough=False), manifest, config.folds)


def each_host_copies(config: RunConfig) -> bool:
    """Whether the data are copied to each of several hosts, of which this machine need be none."""
    return config.hostfile is not None and is_copied(config.data, config.cache_dir)


def alone(folder: Path) -> AbstractContextManager[None]:
    """No other job trains in the folder."""
    return locked(folder / _LOCK, str(folder), "training", _PATIENCE_S)


@contextmanager
def tracked(folder: Path, config: RunConfig) -> Iterator[Tracker]:
    """The run at the tracker, opened again; nobody's ears where it was trained without one."""
    run_id = record_of(folder).get("run_id")
    if run_id is None:
        yield NullTracker()
        return
    experiment, run_name = names(config)
    with open_run(
        config.tracking, experiment=experiment, run_name=run_name, run_folder=folder, tags={}, run_id=run_id
    ) as tracker:
        yield tracker


def model_for(config: RunConfig, manifest: Manifest) -> Model:
    """The model of a config for a data set, its weights drawn from the run's seed."""
    torch.manual_seed(config.train.seed)
    return build_model(config.model, manifest.spec.likelihood, marginal(manifest))


def marginal(manifest: Manifest) -> Marginal:
    """Of the train split."""
    mean, deviation = (torch.tensor(x, dtype=torch.float64) for x in (manifest.stats.mean, manifest.stats.scale))
    scale = float(deviation.square().mean().sqrt()) or 1.0
    return Marginal(mean.float(), scale, sum(shard.samples for shard in manifest.of("train")))


def scoring_for(config: RunConfig, manifest: Manifest, samples: int) -> Scoring:
    spec = manifest.spec
    return Scoring(spec.binary, spec.likelihood == "bernoulli", spec.length, samples, config.evaluate.horizons)


def _write(path: Path, text: str) -> None:
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
