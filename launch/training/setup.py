"""Check the requirements of a training run, then make its folder or reopen it.

All mistakes that can be found without training are found here, in the process that starts the ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from driftwork import config_base
from driftwork.command import typed
from driftwork.config_base import build
from driftwork.errors import DriftworkError
from launch.checks import store
from launch.job import hostfile, launcher
from launch.job.hostfile import HostsConfig
from launch.runs import loaders, run_folder, weights
from launch.runs.config import RunConfig, parse
from launch.runs.distributed import alone
from launch.tracker.tracking import OfStore
from launch.training import checkpoint
from models.ode2vae import Ode2VaeConfig
from models.vsdn_sde import VsdnSdeConfig
from pipeline.sequence import DataSpec
from pipeline.shards.cache import find_manifest, local
from pipeline.shards.manifest import Manifest
from pipeline.shards.verify import verify

_MOST_SOLVER_STEPS = 1000
"""Number of solver steps per frame above which a new run is refused. The shipped configs take at most a few."""
_SETTLED = ("out", "init_from", "tracking.experiment", "tracking.run_name", "tracking.parent")


@contextmanager
def folder_for(argv: list[str]) -> Iterator[Path]:
    """Yield the run folder, new or reopened, for the arguments of `driftwork train`, after all checks. No other command
    trains in it within the context."""
    if not argv[0].startswith("resume="):
        folder = _new(argv)
        with run_folder.reserved(folder):
            yield folder
        return
    _check_heeded(argv[0], argv[1:])
    folder = run_folder.find(argv[0].partition("=")[2], store_of(argv[1:]))
    with run_folder.reserved(folder):
        _reopen(folder, argv[1:])
        yield folder


def _reopen(folder: Path, overrides: list[str]) -> None:
    """Check whether the run in `folder` can continue with `overrides`, and store its config with them."""
    written = run_folder.written(folder, overrides)
    written = _placed(written, run_folder.located(folder, written).hostfile)
    config = run_folder.located(folder, written)
    spec = _check(config, run_folder.record_of(folder).get("manifest")).spec
    written, config = written.for_data(spec), config.for_data(spec)
    _check_resumable(folder, config, spec)
    run_folder.keep(folder, written)


def _new(argv: list[str]) -> Path:
    """Make the folder of a new run, after all checks."""
    config = parse(argv)
    config = _placed(config, config.hostfile)
    manifest = _check(config)
    check_new(config.for_data(manifest.spec))
    check_solver_steps(config, manifest)
    check_initial(config, manifest)
    store.require(config.tracking.uri)
    if not run_folder.each_host_copies(config):
        # A damaged shard is found now, not in the third epoch.
        verify(local(config.data, config.cache_dir, manifest, thorough=True))
    folder = run_folder.create(config.for_data(manifest.spec))
    run_folder.remember(folder, command=typed("train", argv), manifest=manifest.hash)
    return folder


def _check_heeded(run: str, overrides: list[str]) -> None:
    """Raise `DriftworkError` for a setting that is fixed in a run, so that an override would have no effect."""
    for key in (override.partition("=")[0] for override in overrides):
        if key in _SETTLED:
            raise DriftworkError(f"{run}: {key} cannot change in a run; remove it")


def store_of(overrides: list[str]) -> str | None:
    """Return the store in which to look up the id of a run."""
    given = [override for override in overrides if override.startswith("tracking.uri=")]
    return config_base.parse(OfStore, given).tracking.uri


def _placed(config: RunConfig, file: Path | None) -> RunConfig:
    """Set the number of ranks to the slots of the hostfile `file`, if there is one."""
    if file is None:
        return config
    slots = sum(host.slots for host in hostfile.read(file))
    if "ranks" in config.model_fields_set and config.ranks != slots:
        raise DriftworkError(
            f"ranks={config.ranks}: {config.hostfile} has {slots} slots with one rank each; set ranks={slots}"
        )
    return build(RunConfig, {**config.model_dump(mode="json"), "ranks": slots}, where=f"hostfile={config.hostfile}")


def _check(config: RunConfig, known: str | None = None) -> Manifest:
    """Return the manifest of the data, whose hash may be `known`. Raises `DriftworkError` if training is impossible."""
    check_packages(config)
    if config.hostfile is None:
        launcher.check_ranks(config.ranks)
    manifest = find_manifest(config.data, config.cache_dir, known)
    steps(config, run_folder.divided(config, manifest))
    return manifest


def check_packages(config: RunConfig) -> None:
    """Raise `DriftworkError` if a package that training needs is not installed."""
    for package in ("deepspeed", *(["mlflow"] if config.tracking.uri is not None else [])):
        if find_spec(package) is None:  # an installation that only prepares has none
            raise DriftworkError(f"{package} is not installed, and training needs it; run pip install -e '.[train]'")


def check_new(config: RunConfig) -> None:
    """Raise `DriftworkError` for a new run whose latent would be a chain of independent draws, or whose settings of
    hosts have no effect. Earlier runs of this kind may continue."""
    if config.hostfile is None and config.hosts != HostsConfig():
        key = next(key for key, value in config.hosts if value != getattr(HostsConfig(), key))
        raise DriftworkError(f"hosts.{key} has no effect without hostfile=FILE; give the file, or remove it")
    model = config.model
    if isinstance(model, VsdnSdeConfig) and model.kept <= 0:
        raise DriftworkError(
            f"model.max_step={model.max_step} is a whole time_unit in one step, which makes the latent a chain "
            "of independent draws; set model.substeps=3, or a longer model.time_unit"
        )


def check_solver_steps(config: RunConfig, manifest: Manifest) -> None:
    """Raise `DriftworkError` for a new run with so many solver steps per frame that `max_step` must be meant for other
    data."""
    longest, interval = getattr(config.model, "max_step", None), manifest.spec.interval
    if isinstance(longest, float) and interval / longest > _MOST_SOLVER_STEPS:
        raise DriftworkError(
            f"model.max_step={longest:g} s: {interval / longest:,.0f} solver steps for each frame of {config.data}, "
            f"which lasts {interval:g} s; set model.max_step near this, and model.time_unit to the time in which "
            "the data change"
        )


def check_initial(config: RunConfig, manifest: Manifest) -> None:
    """Raise `DriftworkError` for a new run if the weights that it would start from do not fit its model."""
    if config.init_from is None:
        return
    source = run_folder.find(str(config.init_from), config.tracking.uri)
    try:
        weights.check_fit(run_folder.model_for(config, run_folder.divided(config, manifest)), source)
    except DriftworkError as error:
        raise DriftworkError(f"init_from={config.init_from}: {error}") from None


def steps(config: RunConfig, manifest: Manifest) -> int:
    """Return the maximum number of training steps. Raises `DriftworkError` if there are no training or validation
    data, or if the model cannot learn data of this kind."""
    spec = manifest.spec
    if spec.table is not None:
        run_folder.model_for(config, manifest)  # names channels and likelihoods that do not fit
    if isinstance(config.model, Ode2VaeConfig) and (spec.binary or spec.audio_rate is not None):
        raise DriftworkError(
            f"model.name={config.model.name}: it generates a sequence from its initial state, which does not "
            f"determine music or speech; use vsdn_vae, vsdn_sde, gru_ode or ode_rnn for {config.data} (docs/models.md)"
        )
    stream = loaders.training(config, manifest, alone())  # an empty split is found here, not on a rank
    loaders.evaluation(config, config.data, manifest, "val", alone())
    return stream.steps * config.train.max_epochs


def _check_resumable(folder: Path, config: RunConfig, spec: DataSpec) -> None:
    """Check that the checkpoint fits: model, data with their folds, ZeRO stage, seed and batch size must be the same.
    For another world size it is divided anew here, before any rank starts."""
    before = run_folder.config_of(folder).for_data(spec)
    for name, old, new in (
        ("model", before.model, config.model),
        ("folds", before.folds, config.folds),
        ("optim.zero_stage", before.optim.zero_stage, config.optim.zero_stage),
        ("train.seed", before.train.seed, config.train.seed),
        ("train.batch_size", before.train.batch_size, config.train.batch_size),  # `Progress` counts steps of this size
    ):
        if old != new:
            raise DriftworkError(f"resume={folder}: {name} cannot change in a run; start a new one")
    if not run_folder.each_host_copies(config):
        run_folder.check_data(folder, config)
    if before.ranks != config.ranks:
        with run_folder.alone(folder):
            checkpoint.ready(folder, config.ranks)
