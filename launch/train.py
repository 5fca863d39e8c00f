"""`driftwork train CONFIG.yaml data=DIR [ranks=N] [key=value ...]`, or `driftwork train resume=RUN [key=value ...]`.

Called by a user, it validates everything, writes the run folder and starts itself on every rank. Called by a launcher
(ours, or `deepspeed --module launch.train ...`), it is one rank.
"""

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import fmean

from launch import doctor, run_folder, streams
from launch.checks import store
from launch.config import CONFIG_FILE, RunConfig, parse
from launch.entry import command, run
from launch.job import hostfile, hosts, launcher
from launch.job.signals import TERMINATED, sigterm_noted
from launch.job.supervisor import INTERRUPTED, LEFT, supervised
from launch.scoring import scores
from launch.scoring.results import estimates, values
from launch.tracker import tags
from launch.tracker.tracking import Tracker, open_run
from launch.training import checkpoint
from launch.training.distributed import Ranks, all_gathered, alone, barrier, on_rank_0
from launch.training.progress import Progress
from launch.training.watchdog import Watchdog
from models.base import Model
from models.config_base import build, flatten, load
from models.errors import DriftworkError
from pipeline.cache import find_manifest, is_copied, local
from pipeline.lock import locked
from pipeline.manifest import Manifest, read_manifest
from pipeline.parent import end_with_parent
from pipeline.verify import verify

USAGE = """usage: driftwork train CONFIG.yaml data=DIR|URL [ranks=N] [key=value ...]
       driftwork train resume=RUN [key=value ...]
hostfile=FILE, of lines `NAME slots=N`, trains on several hosts through ssh; see docs/clusters.md"""

_LOCK = "train.lock"
_PATIENCE_S = 60.0


@command(USAGE)
def main(argv: list[str]) -> int:
    if launcher.launched():
        return _rank(argv)
    folder = _folder(argv)
    config = run_folder.config_of(folder)
    doctor.glance_before_training(1 if config.hostfile else config.ranks, config.tracking.uri, folder)
    print(f"training {config.model.name} on {config.data}, {config.ranks} rank(s), run folder {folder}", flush=True)
    code = supervised(folder, partial(_start, folder, config), config.restarts)
    if code == LEFT:
        print(f"interrupted, and saved. Go on with: driftwork train resume={folder}", flush=True)
    if code == 0:
        print(f"trained. Score it with: driftwork evaluate {folder} split=test", flush=True)
    return code


def _start(folder: Path, config: RunConfig) -> int:
    """Train on all ranks; returns the exit code."""
    module, arguments = "launch.train", [f"resume={folder}"]
    if config.hostfile is None:
        return launcher.start(module, arguments, config.ranks)
    shared = [folder, *([config.data] if isinstance(config.data, Path) else [])]
    return hosts.start(module, arguments, config.hostfile, config.hosts, shared)


def _folder(argv: list[str]) -> Path:
    """The run folder that the arguments ask for, after all that can be checked has been."""
    if argv[0].startswith("resume="):
        folder = run_folder.find(argv[0].partition("=")[2])
        config = _placed(load(RunConfig, folder / CONFIG_FILE, argv[1:]))
        _check(config, run_folder.record_of(folder).get("manifest"))
        _check_resumable(folder, config)
        run_folder.keep(folder, config)
        return folder
    config = _placed(parse(argv))
    _check(config)
    store.require(config.tracking.uri)
    manifest = find_manifest(config.data, config.cache_dir)
    if not _each_host_copies(config):
        # A damaged shard is found now, not in the third epoch.
        verify(local(config.data, config.cache_dir, manifest, thorough=True))
    folder = run_folder.create(config)
    run_folder.remember(folder, command=shlex.join(["driftwork", "train", *argv]), manifest=manifest.hash)
    return folder


def _placed(config: RunConfig) -> RunConfig:
    """With a hostfile, there are as many ranks as it has slots."""
    if config.hostfile is None or launcher.launched():  # a rank need not see the file
        return config
    slots = sum(host.slots for host in hostfile.read(config.hostfile))
    if "ranks" in config.model_fields_set and config.ranks != slots:
        raise DriftworkError(f"ranks={config.ranks}: {config.hostfile} has {slots} slots, and each takes a rank")
    return build(RunConfig, {**config.model_dump(mode="json"), "ranks": slots}, where=f"hostfile={config.hostfile}")


def _check(config: RunConfig, known: str | None = None) -> None:
    if config.hostfile is None:
        launcher.check_ranks(config.ranks)
    steps(config, known)


def steps(config: RunConfig, known: str | None = None) -> int:
    """The most that training takes, on a data set whose manifest's hash may be `known`. Raises `DriftworkError` where
    there is nothing to train on, or to validate on."""
    manifest = find_manifest(config.data, config.cache_dir, known)
    stream = streams.training(config, manifest, alone())  # an empty split is found now, and not on a rank
    streams.evaluation(config, config.data, manifest, "val", alone())
    return stream.steps * config.train.max_epochs


def _each_host_copies(config: RunConfig) -> bool:
    """Whether the data are copied to each of several hosts, of which this machine need be none."""
    return config.hostfile is not None and is_copied(config.data, config.cache_dir)


def _check_resumable(folder: Path, config: RunConfig) -> None:
    """Weights and optimizer of the checkpoint fit the same model, data and ZeRO stage only; for another number of ranks
    they are divided anew, here, before any rank is started."""
    before = run_folder.config_of(folder)
    for name, old, new in (
        ("model", before.model, config.model),
        ("optim.zero_stage", before.optim.zero_stage, config.optim.zero_stage),
    ):
        if old != new:
            raise DriftworkError(f"resume={folder}: {name} cannot change in a run; start a new one")
    if not _each_host_copies(config):
        run_folder.check_data(folder, config)
    if before.ranks != config.ranks:
        with _alone(folder):
            checkpoint.ready(folder, config.ranks)


def _rank(argv: list[str]) -> int:
    """One rank, top to bottom."""
    from launch.training.engine import join_ranks, leave  # loads DeepSpeed, which the launching process can do without

    end_with_parent()  # should the launcher be killed, which otherwise ends it
    with sigterm_noted() as asked_to_leave, Watchdog(int(os.environ["RANK"])) as watch:
        ranks = join_ranks(timedelta(days=1))  # patience is the watchdog's, which can tell where it ended
        folder: Path = on_rank_0(ranks, partial(_folder, argv))
        config = run_folder.config_of(folder)
        watch.settle(folder)
        try:
            with _alone(folder) if ranks.rank == 0 else nullcontext():
                _train(_with_data_here(config, folder, watch), folder, ranks, watch, asked_to_leave)
        except SystemExit:
            barrier()  # the launcher ends all ranks when one has left
            leave()
            return LEFT
        leave()
    return 0


def _with_data_here(config: RunConfig, folder: Path, watch: Watchdog) -> RunConfig:
    """The config with the data on this host, where one rank copies them while the others wait."""
    watch.patience, usual = math.inf, watch.patience  # the copy has limits of its own
    thorough = _each_host_copies(config) and os.environ["LOCAL_RANK"] == "0"
    here = run_folder.at_hand(folder, config, thorough=thorough)
    barrier()  # nobody reads what another is still mending
    watch.at("load")
    watch.patience = usual
    return here


def _train(
    config: RunConfig, folder: Path, ranks: Ranks, watch: Watchdog, asked_to_leave: Callable[[], bool]
) -> None:  # fmt: skip
    """Raises SystemExit(TERMINATED), so that the tracker sees the run as killed, when a rank was asked to leave."""
    from launch.training import loop, nonfinite
    from launch.training.engine import Engine
    from launch.training.journal import Journal

    manifest = read_manifest(config.data)
    model = run_folder.model_for(config, manifest)
    engine = Engine(model, config.optim, ranks, frame_scale=manifest.spec.length)
    watch.within = lambda: engine.clock.phase
    watch.at("load")
    known = checkpoint.load(engine, folder)
    progress = Progress(**known["progress"]) if known else Progress()
    with _tracked(folder, manifest, ranks) as tracker:
        journal = Journal(tracker, ranks, engine.clock)
        if known:
            journal.restore(known["journal"])
        journal.say(f"{engine.size:,} parameters, from step {progress.step}")

        def validate(step: int) -> tuple[float, str]:
            with engine.open():
                return _validation_score(model, config, manifest, ranks, tracker, watch, step)

        def save(is_best: bool) -> None:
            watch.at("save")
            if is_best:
                checkpoint.save_best(engine, folder)
            state = {"progress": progress.state(), "journal": all_gathered(journal.state())}
            checkpoint.save(engine, folder, progress.step, state)

        watch.patience = config.hang_after
        around = loop.Around(validate, save, partial(nonfinite.report, folder, ranks), asked_to_leave)
        if not loop.train(config, engine, streams.training(config, manifest, ranks), journal, progress, watch, around):
            if ranks.rank == 0:
                run_folder.remember(folder, **{INTERRUPTED: progress.step})
            journal.say(f"asked to leave: saved at step {progress.step}")
            raise SystemExit(TERMINATED)
        watch.at("record")
        if ranks.rank == 0:
            from launch import export

            tracker.artifact(folder / checkpoint.BEST, "weights")
            export.after_training(folder, config, manifest, tracker)


def _alone(folder: Path) -> AbstractContextManager[None]:
    """No other job trains in the folder."""
    return locked(folder / _LOCK, str(folder), "training", _PATIENCE_S)


@contextmanager
def _tracked(folder: Path, manifest: Manifest, ranks: Ranks) -> Iterator[Tracker]:
    """The run at the tracker, described: config as params; as tags the data and their hash, the command that asked for
    it, and those left in the folder."""
    config = run_folder.config_of(folder)  # the URL that was given, not where this host has its copy
    experiment, run_name = run_folder.names(config)
    record = run_folder.record_of(folder)
    about = {
        tags.MANIFEST: manifest.hash,
        tags.DATA: experiment,
        tags.DATASET: manifest.dataset,
        tags.MODEL: config.model.name,
    }
    if "command" in record:
        about[tags.COMMAND] = record["command"]
    with open_run(
        config.tracking,
        experiment=experiment,
        run_name=run_name,
        run_folder=folder,
        tags={**about, **record.get("tags", {})},
        rank=ranks.rank,
        run_id=record.get("run_id"),
        training=True,
    ) as tracker:
        if ranks.rank == 0:
            run_folder.remember(folder, run_id=tracker.run_id, manifest=manifest.hash, **{INTERRUPTED: None})
            tracker.params(flatten(config))
            tracker.artifact(folder / CONFIG_FILE)
        yield tracker


def _validation_score(
    model: Model, config: RunConfig, manifest: Manifest, ranks: Ranks, tracker: Tracker, watch: Watchdog, step: int
) -> tuple[float, str]:
    """What the best weights are chosen by (`Scoring.validation`) on the validation split, the mean over rates; and what
    to say of it, its KL included."""
    model.eval()
    scoring = run_folder.scoring_for(config, manifest, samples=1)
    found: dict[str, list[float]] = {}
    for rate, stream in streams.evaluation(config, config.data, manifest, "val", ranks).items():
        batches = watch.over("validation", stream.epoch(0))
        table = estimates(scores.collect(scoring.validation, model, batches, rate, ranks.device))
        tracker.metrics({f"val/{name}": value for name, value in values(table).items()}, step)
        (columns,) = table.values()
        *_, last = columns.values()
        for name, x in last.items():
            if not name.startswith("nll_importance"):  # with one sample, a noisy twin of the bound
                found.setdefault(name, []).append(x.value)
    means = {name: fmean(values) for name, values in found.items()}
    return next(iter(means.values())), ", ".join(f"{name} {value:.4g}" for name, value in means.items())


if __name__ == "__main__":
    raise SystemExit(run("train", main, sys.argv[1:]))
