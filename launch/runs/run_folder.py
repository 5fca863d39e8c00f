"""A run folder: `config.yaml` as resolved, `run.json`, checkpoints, weights, results. `RUN` on a command line is such a
folder or the MLflow id of its run."""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import torch

from driftwork.config_base import at_home, dump, load
from driftwork.errors import DriftworkError
from driftwork.files import aside, read_json, writing
from driftwork.lock import locked
from launch.runs import weights
from launch.runs.config import CONFIG_FILE, RunConfig
from launch.tracker import store_uri
from launch.tracker.mlflow_store import find_run_folder
from launch.tracker.tracking import NullTracker, StoreConfig, Tracker, open_run
from models.base import Model
from models.parts.likelihoods import Marginal, TableForm
from models.registry import build_model
from pipeline.reading.folds import divide
from pipeline.shards.cache import find_manifest, is_copied, local
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.shards.storage import name_of
from pipeline.shards.verify import verify

_RECORD = "run.json"
_DIRECTORY = "directory"
"""Key of the record: the working folder in which the run was started."""
INIT_FROM = "init_from"
"""Key of the record: id or folder of the run whose weights the run starts from, and their SHA-256."""
_LOCK = "train.lock"
RANKS = "ranks"
"""Folder in which each rank writes its place."""
_RANKS_LOCK = "lock"
_PATIENCE_S = 60.0
"""Maximum time for the ranks of a killed `driftwork train` to save and end, in seconds."""


def create(config: RunConfig) -> Path:
    """Make the folder, a new one below `runs` without `out`, and write the config and the initial weights into it.
    Raises `DriftworkError` if it contains a run already, or if there are no weights to start from."""
    folder = config.out or _new_folder(config)
    if (folder / CONFIG_FILE).exists():
        raise DriftworkError(
            f"out={folder} contains a run already; continue it with resume={folder}, or choose another out"
        )
    source = None if config.init_from is None else find(str(config.init_from), config.tracking.uri)
    with writing(f"out={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if source is not None:
            hash_ = weights.copy_initial(source, folder)
            name = record_of(source).get("run_id") or str(source.absolute())
            remember(folder, **{INIT_FROM: {"run": name, "sha256": hash_}})
        _write(folder / CONFIG_FILE, dump(config.model_copy(update={"out": folder})))
        remember(folder, **{_DIRECTORY: str(Path.cwd())})
    return folder


def _new_folder(config: RunConfig) -> Path:
    """Make a folder that is named after model, data and time. Runs that start in the same second get different ones."""
    name = f"{config.model.name}-{name_of(config.data)}-{datetime.now():%Y%m%d-%H%M%S}"
    with writing("out=runs"):
        Path("runs").mkdir(exist_ok=True)
    for number in count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with writing(f"out={folder}"), suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def withdraw_unbegun(folder: Path) -> None:
    """Remove the files of `create` and of the ranks if the run has not begun, that is, if no rank opened its run at the
    tracker or found that it is not tracked. The folder is kept if it has other files.
    """
    if "run_id" in record_of(folder):
        return
    for name in (CONFIG_FILE, _RECORD, _LOCK, weights.INITIAL):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / RANKS, ignore_errors=True)
    with suppress(OSError):  # there are other files
        folder.rmdir()


def find(run: str, uri: str | None = None) -> Path:
    """Return the folder of `RUN`, a path or the id of a run in the store at `uri`, by default the default store."""
    folder = at_home(run)
    if not (folder / CONFIG_FILE).exists():
        if folder.exists() or "/" in run:
            raise DriftworkError(f"{run}: no run folder (it has no {CONFIG_FILE}); give a run's folder or id")
        if (beside := Path("runs") / run / CONFIG_FILE).exists():
            raise DriftworkError(f"{run}: no run folder here; did you mean {beside.parent}?")
        folder = find_run_folder(uri or store_uri.default(), run)
    return folder


def check_store_is_read(runs: Sequence[str], uri: str | None) -> None:
    """Raise `DriftworkError` for a `uri` without effect, in a command that uses the store only to find runs by id."""
    if uri is not None and all(at_home(run).is_dir() for run in runs):
        raise DriftworkError(f"tracking.uri={uri} has no effect: every RUN is a folder; remove it")


def runs_of_sweep(folder: Path) -> list[Path]:
    """Return the run folders directly below a folder that is not a run folder itself, such as a sweep's, sorted by
    name.
    """
    here = (folder / CONFIG_FILE).exists()
    return [] if here else sorted(config.parent for config in folder.glob(f"*/{CONFIG_FILE}"))


def keep(folder: Path, config: RunConfig) -> None:
    """Replace the run's stored config by `config`."""
    _write(folder / CONFIG_FILE, dump(config))


def config_of(folder: Path, tracking: StoreConfig | None = None) -> RunConfig:
    """Return the run's config with paths that are valid here, and with the store that `tracking` may name."""
    config = located(folder, written(folder))
    if tracking is None or tracking.uri is None:
        return config
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": tracking.uri})})


def written(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run's config as it stands in the folder, with `overrides`, whose relative paths start in the working
    folder."""
    config = load(RunConfig, folder / CONFIG_FILE, overrides)
    origin = _origin(folder, config)
    if origin is None or origin == Path.cwd():
        return config
    return _moved(config, Path.cwd(), {override.partition("=")[0] for override in overrides})


def located(folder: Path, config: RunConfig) -> RunConfig:
    """Return the run's config with absolute paths, so that it can be opened from any folder. A relative path stays
    relative if it does not exist below the folder in which the run was started.
    """
    origin = _origin(folder, config)
    return config if origin is None or origin == Path.cwd() else _moved(config, origin)


def _origin(folder: Path, config: RunConfig) -> Path | None:
    """Return the folder that relative paths of the run's config start from. If that folder was moved with the runs in
    it, it is found from the run folder's place in it.
    """
    ends = Path(os.path.normpath(config.out or ".")).parts
    here = folder.resolve().parts
    if config.out and not config.out.is_absolute() and ".." not in ends and here[-len(ends) :] == ends:
        return Path(*here[: -len(ends)])
    known = record_of(folder).get(_DIRECTORY)
    return Path(known) if known else None


def _moved(config: RunConfig, origin: Path, given: Collection[str] | None = None) -> RunConfig:
    """Return the config with relative paths made absolute from `origin`: those of the `given` keys, and those that
    exist there.
    """

    def moves(key: str, path: object) -> bool:
        if not isinstance(path, Path) or path.is_absolute():
            return False
        return (origin / path).exists() if given is None else key in given

    paths = {key: getattr(config, key) for key in ("data", "cache_dir", "hostfile")}
    update: dict[str, Any] = {key: origin / path for key, path in paths.items() if moves(key, path)}
    file = store_uri.relative(config.tracking.uri)
    if moves("tracking.uri", file):
        update["tracking"] = config.tracking.model_copy(update={"uri": store_uri.of(origin / str(file))})
    return config.model_copy(update=update)


def names(config: RunConfig) -> tuple[str, str]:
    """Return the default names of experiment and run at the tracker: that of the data, and model with seed."""
    return name_of(config.data), f"{config.model.name} seed {config.train.seed}"


def record_of(folder: Path) -> dict[str, Any]:
    """Return the facts that `remember` has stored."""
    path = folder / _RECORD
    record: dict[str, Any] = read_json(path, "copy the run folder again") if path.exists() else {}
    return record


def remember(folder: Path, **facts: Any) -> None:
    """Store facts about the run, such as its MLflow id and the manifest of its data."""
    _write(folder / _RECORD, json.dumps({**record_of(folder), **facts}, indent=2) + "\n")


def check_data(folder: Path, config: RunConfig) -> None:
    """Check that the run's own data set is on this machine and intact."""
    verify(at_hand(folder, config, thorough=True).data)


def at_hand(folder: Path, config: RunConfig, *, thorough: bool = False) -> RunConfig:
    """Return the config with the run's data set in a folder on this machine, which replaces a URL.

    Any other data set is refused: weights would not fit, and scores of the run would not be comparable. `thorough` is
    that of `pipeline.shards.cache`."""
    trained_on = record_of(folder).get("manifest")
    manifest = find_manifest(config.data, config.cache_dir, trained_on)
    if trained_on is not None and manifest.hash != trained_on:
        raise DriftworkError(
            f"data={config.data} is not the data set that {folder} was trained on (manifest "
            f"{trained_on[:12]}); give that data set by data="
        )
    return config.model_copy(update={"data": local(config.data, config.cache_dir, manifest, thorough=thorough)})


def manifest_of(config: RunConfig) -> Manifest:
    """Read the manifest of data in a folder on this machine, divided into the run's fold if it has one."""
    return divided(config, read_manifest(config.data))


def divided(config: RunConfig, manifest: Manifest) -> Manifest:
    """Return the manifest of the run's fold, or `manifest` itself where the run has none. Data in a store are copied to
    this machine first."""
    if config.folds is None:
        return manifest
    return divide(local(config.data, config.cache_dir, manifest, thorough=False), manifest, config.folds)


def each_host_copies(config: RunConfig) -> bool:
    """Return whether the data are copied to each of several hosts, which need not include this machine."""
    return config.hostfile is not None and is_copied(config.data, config.cache_dir)


def reserved(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a `driftwork train`, from before it changes the folder until its last rank has ended. Raises
    `DriftworkError` at once if another one holds it."""
    return locked(folder / _LOCK, str(folder), "training")


def alone(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of the ranks, which may outlive the `driftwork train` that started them, so that no others train
    in the folder."""
    return locked(folder / RANKS / _RANKS_LOCK, str(folder), "training", _PATIENCE_S)


@contextmanager
def tracked(folder: Path, config: RunConfig) -> Iterator[Tracker]:
    """Open the run at the tracker again. Yield a null tracker if it was trained without one."""
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
    """Build the model of a config for a data set, with weights drawn from the run's seed."""
    torch.manual_seed(config.train.seed)
    return build_model(config.for_data(manifest.spec).model, manifest.spec.likelihood, marginal(manifest))


def marginal(manifest: Manifest) -> Marginal:
    """Return the marginal of the train split."""
    mean, deviation = (torch.tensor(x, dtype=torch.float64) for x in (manifest.stats.mean, manifest.stats.scale))
    sequences, table = sum(shard.samples for shard in manifest.of("train")), manifest.spec.table
    if table is None:
        return Marginal(mean.float(), float(deviation.square().mean().sqrt()) or 1.0, sequences)
    form = TableForm(table.channels, tuple(name in table.binary for name in table.channels), table.static_width)
    return Marginal(mean.float(), torch.where(deviation > 0, deviation, 1.0).float(), sequences, form)


def _write(path: Path, text: str) -> None:
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
