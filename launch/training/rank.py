"""The work of a rank, from joining the others to the final weights: combine engine, tracker and loop."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from driftwork.command import run
from driftwork.config_base import flatten
from driftwork.processes import TERMINATED, end_with_parent
from launch.job.signals import signals_noted
from launch.planning.hardware import matrix_rate
from launch.planning.sizes import operations_per_frame
from launch.runs import loaders, run_folder, weights
from launch.runs.config import CONFIG_FILE, RunConfig
from launch.runs.distributed import Ranks, all_gathered, barrier, join_ranks, leave, set_tf32
from launch.scoring.collect import collect
from launch.scoring.results import estimates, values
from launch.scoring.scores import Scoring
from launch.serving import export
from launch.tracker import dataset, tags
from launch.tracker.pending import PendingMetrics
from launch.tracker.tracking import Tracker, open_run
from launch.training import checkpoint, loop, nonfinite
from launch.training.engine import Engine
from launch.training.profile import StepProfile, shortage_explained
from launch.training.progress import Progress
from launch.training.supervisor import INTERRUPTED, LEFT
from launch.training.training_log import TrainingLog, Work
from launch.training.watchdog import Watchdog
from models.base import Model
from models.solvers.choice import set_loops
from models.solvers.gpu import first_use
from pipeline.shards.manifest import Manifest, read_manifest


class Configs(NamedTuple):
    """Three forms of the run's config, which is read once."""

    written: RunConfig
    """The config as stored in the run folder."""
    located: RunConfig
    """The config with paths that are valid from the working folder."""
    here: RunConfig
    """The config with the data in a folder on this host instead of their URL."""


def rank(folder: Path) -> int:
    """Run one rank from start to end and return the exit code."""
    end_with_parent()  # in case the launcher, which otherwise ends it, is killed
    with signals_noted() as stop_requested, Watchdog(int(os.environ["RANK"])) as watch:
        ranks = join_ranks(timedelta(days=1))  # the watchdog's limit is shorter and reports the place
        written = run_folder.written(folder)
        located = run_folder.located(folder, written)
        watch.settle(folder)
        try:
            with run_folder.alone(folder) if ranks.rank == 0 else nullcontext():
                configs = Configs(written, located, _with_data_here(located, folder, watch))
                _train(configs, folder, ranks, watch, stop_requested)
        except SystemExit:
            barrier()  # the launcher ends all ranks when one has ended
            leave()
            return LEFT
        leave()
    return 0


def _with_data_here(config: RunConfig, folder: Path, watch: Watchdog) -> RunConfig:
    """Return the config with the data on this host; one rank copies them while the others wait."""
    thorough = run_folder.each_host_copies(config) and os.environ["LOCAL_RANK"] == "0"
    with watch.unhurried():
        here = run_folder.at_hand(folder, config, thorough=thorough)
        barrier()  # nobody may read data that another rank is still repairing
    watch.at("load")
    return here


def _train(
    configs: Configs, folder: Path, ranks: Ranks, watch: Watchdog, stop_requested: Callable[[], bool]
) -> None:  # fmt: skip
    """Train to the end. Raises SystemExit(TERMINATED) if a rank was requested to save and stop, so that the tracker
    marks the run as killed."""
    config = configs.here
    set_tf32(config.optim.tf32)
    set_loops(config.loops)
    whole = read_manifest(config.data)
    manifest = run_folder.divided(config, whole)
    model = _initial_model(config, manifest, folder)
    work = _work(model, config, manifest, ranks)
    engine = Engine(model, config.optim, ranks, frame_scale=manifest.spec.length, accumulate=config.train.accumulate)
    watch.within = lambda: engine.clock.phase
    watch.at("load")
    known = checkpoint.load(engine, folder)
    new = Progress(score_beta=config.train.beta, settles_at=config.settles_at)
    progress = Progress(**known["progress"]) if known else new
    with _tracked(configs, folder, whole, ranks) as tracker:
        pending = PendingMetrics(tracker)
        log = TrainingLog(pending, ranks, engine.clock, latent=model.has_latent, work=work)
        if known:
            log.restore(known["journal"])
            pending.restore(known.get("metrics", []))
        if ranks.rank == 0:
            first_use.report_to(partial(_turned_off, log, tracker))
        log.write(f"{engine.size:,} parameters, from step {progress.step}")

        def validate(step: int) -> tuple[float, str]:
            with engine.open():
                return _validation_score(model, config, manifest, ranks, pending, watch, step, progress.score_beta)

        def save(is_best: bool) -> None:
            watch.at("save")
            if is_best:
                checkpoint.save_best(engine, folder)
            state = {"progress": progress.state(), "journal": all_gathered(log.state()), "metrics": pending.state()}
            checkpoint.save(engine, folder, progress.step, state)
            pending.release()

        watch.patience = config.hang_after
        profiled = config.profiled if ranks.rank == 0 else range(0)
        profile = StepProfile(profiled, folder / "profile", partial(tracker.artifact, folder="profile"))
        report = partial(nonfinite.report, folder, ranks)
        around = loop.Around(validate, save, report, stop_requested, before=profile.at)
        ahead = loaders.room_to_read_ahead()
        batches = closing(loaders.training(config, manifest, ranks, engine.planner, ahead=ahead))
        with batches as stream, shortage_explained(config, folder, ranks, lambda: progress.step):
            trained = loop.train(config, engine, stream, log, progress, watch, around)
        profile.close(progress.step)
        if not trained:
            if ranks.rank == 0:
                run_folder.remember(folder, **{INTERRUPTED: progress.step})
            log.write(f"stop requested: saved at step {progress.step}")
            raise SystemExit(TERMINATED)
        watch.at("record")
        if ranks.rank == 0:
            tracker.artifact(folder / weights.BEST, "weights")
            export.after_training(folder, config, manifest, tracker)


def _initial_model(config: RunConfig, manifest: Manifest, folder: Path) -> Model:
    """Return the model with the weights that training starts from."""
    model = run_folder.model_for(config, manifest)
    if config.init_from is not None:
        weights.load_initial(model, folder)
    return model


def _work(model: Model, config: RunConfig, manifest: Manifest, ranks: Ranks) -> Work | None:
    """Return the work by which the log measures the matrix rate; None on other ranks than 0, and on devices of unknown
    nominal rate.
    """
    if ranks.rank != 0 or ranks.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(ranks.device)
    rate = matrix_rate(name, autocast=config.optim.autocast, tf32=config.optim.tf32)
    return None if rate is None else Work(operations_per_frame(model, config, manifest), ranks.world * rate)


def _turned_off(log: TrainingLog, tracker: Tracker, name: str, problem: str) -> None:
    """Log and tag a fast form of a loop that does not work on this device."""
    log.write(f"{name} is turned off, and a slower form is used: {problem}")
    tracker.tags({f"{tags.TURNED_OFF}.{name.replace(' ', '_')}": problem})


@contextmanager
def _tracked(configs: Configs, folder: Path, manifest: Manifest, ranks: Ranks) -> Iterator[Tracker]:
    """Open the run at the tracker and describe it: the config as params; the data with their hash, the command, and the
    stored tags of the folder as tags."""
    config = configs.located
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
    if run_folder.INIT_FROM in record:
        about |= {tags.INIT_FROM: record[run_folder.INIT_FROM]["run"]}
        about |= {tags.INIT_WEIGHTS: record[run_folder.INIT_FROM]["sha256"]}
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
            tracker.params(flatten(configs.written))  # equal paths, from any working folder
            tracker.dataset(dataset.described(manifest, config.data))
            tracker.artifact(folder / CONFIG_FILE)
        yield tracker


def _validation_score(
    model: Model, config: RunConfig, manifest: Manifest, ranks: Ranks, pending: PendingMetrics, watch: Watchdog,
    step: int, beta: float,
) -> tuple[float, str]:  # fmt: skip
    """Return the score that selects the best weights (`Scoring.validation`) on the validation split, the mean over
    rates with its KL weighted by `beta`, and a message about it."""
    model.eval()
    scoring = Scoring.of(config, manifest, samples=1)
    found: dict[str, list[float]] = {}
    for rate, stream in loaders.evaluation(config, config.data, manifest, "val", ranks).items():
        batches = watch.over("validation", stream.epoch(0))
        table = estimates(collect(scoring.validation, model, batches, rate, ranks.device).scores)
        pending.metrics({f"val/{name}": value for name, value in values(table).items()}, step)
        (columns,) = table.values()
        *_, last = columns.values()
        for name, x in last.items():
            if not name.startswith("nll_importance"):  # with one sample, a noisy copy of the ELBO
                found.setdefault(name, []).append(x.value)
    means = {name: fmean(values) for name, values in found.items()}
    message = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
    kl = next((value for name, value in means.items() if name.startswith("kl_")), 0.0)
    score = next(iter(means.values())) + (beta - 1.0) * kl
    return score, message if beta == 1.0 else f"{message}, score with beta {beta:g}: {score:.4g}"


def main(argv: list[str]) -> int:
    """Run a rank: `python -m launch.training.rank FOLDER`, whose arguments the launcher has checked."""
    code = rank(Path(argv[0]))
    return 0 if code == LEFT else code  # the record says that it left; DeepSpeed's launcher would report an error


if __name__ == "__main__":
    raise SystemExit(run("train", main, sys.argv[1:]))
