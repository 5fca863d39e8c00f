"""`driftwork sweep GRID.yaml [--dry-run] [key=value ...]`: train and score the trials of a grid under one parent run.

Everything is checked before the first trial starts. A trial that fails is reported and the others continue. Called
again, the command skips finished trials and continues the others, according to the records in the run folders.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from driftwork.command import command, run
from driftwork.config_base import flatten
from driftwork.errors import DriftworkError
from driftwork.files import printable, require_room, writing
from driftwork.lock import locked
from driftwork.processes import sigterm_exits
from launch.checks import store
from launch.evaluation import showcase_models
from launch.job import launcher
from launch.runs import loaders, run_folder
from launch.runs.config import CONFIG_FILE
from launch.runs.distributed import alone
from launch.scoring import tables
from launch.scoring.comparison import compared
from launch.scoring.results import is_evaluated
from launch.sweeps import grid as grids
from launch.sweeps import trial as trial_process
from launch.sweeps.grid import Grid, Trial
from launch.sweeps.grid_settings import settings
from launch.sweeps.trial import Outcome
from launch.tracker import dataset, tags
from launch.tracker.tracking import Tracker, open_run
from launch.training import checkpoint, setup
from pipeline.shards.cache import find_manifest, local
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage import Place
from pipeline.shards.verify import verify

USAGE = """usage: driftwork sweep GRID.yaml [key=value ...] [--dry-run]
  GRID.yaml  Grid of runs, as in configs/grids. With --help its values are shown.
  --dry-run  Check the grid and list its runs without starting any."""

_LOCK = "sweep.lock"
_MAY_DIFFER = ("out", "tracking.", "loader_workers", "cache_dir")
"""Prefixes of keys in which an unfinished trial may differ from the grid file; its folder's config is used."""


class TrialsFailedError(Exception):
    """Error for failed trials, which is raised after all other trials have run."""


class State(NamedTuple):
    """Progress of a trial, from its folder."""

    done: bool
    step: int
    """Step of the trial's last checkpoint."""


@command(USAGE, settings=settings)
def main(argv: list[str]) -> int:
    arguments = [argument for argument in argv if argument != "--dry-run"]
    grid = grids.read(arguments)
    if grid.config.at_once in (None, 1) and any(argument.startswith("address=") for argument in arguments):
        raise DriftworkError(f"address={grid.config.address} has no effect without at_once=N, N above 1; remove it")
    at_once = _number_at_once(grid)
    if at_once > 1 and find_spec("ray") is None:  # an installation that only trains has none
        raise DriftworkError(f"at_once={at_once}: Ray is not installed; run pip install -e '.[prepare]'")
    manifest_of = cache(find_manifest)  # trials share their data
    steps = [_check(grid, trial, at_once, manifest_of) for trial in grid.trials]
    places = dict.fromkeys((trial.config.data, trial.config.cache_dir) for trial in grid.trials)
    for where in places:
        verify(local(*where, manifest_of(*where), thorough=True))
    states = [_state(grid, trial, manifest_of) for trial in grid.trials]
    dry = "--dry-run" in argv
    if not dry:
        store.require(grid.trials[0].config.tracking.uri)
    _list(grid, steps, states)
    if dry:
        return 0
    try:
        print("Ctrl-C ends the sweep once the running trials have saved; a second Ctrl-C ends it at once", flush=True)
        with sigterm_exits(), locked(grid.out / _LOCK, f"out={grid.out}", "sweep"):
            with writing(f"out={grid.out}"):
                require_room(grid.out)
            todo = [trial for trial, state in zip(grid.trials, states, strict=True) if not state.done]
            _sweep(grid, todo, at_once, {where[0]: manifest_of(*where) for where in places})
    except TrialsFailedError as failed:
        print(failed, flush=True)
        return 1
    except (KeyboardInterrupt, SystemExit):
        print(f"interrupted; running trials were signalled to save. Continue with: {grid.command}", flush=True)
        raise
    return 0


def _number_at_once(grid: Grid) -> int:
    """Return the number of trials that run at the same time: that of the grid, or as many as the GPUs here allow."""
    if grid.config.at_once is not None:
        return grid.config.at_once
    largest = max(trial.config.ranks for trial in grid.trials)
    return max(1, launcher.gpus() // largest) if find_spec("ray") else 1


def _check(grid: Grid, trial: Trial, at_once: int, manifest_of: Callable[[Place, Path | None], Manifest]) -> int:
    """Check a trial as `train` would, except for the hashes of the data, and return its maximum number of steps."""
    config = trial.config
    try:
        if config.hostfile is not None:
            raise DriftworkError(
                "hostfile: a trial runs on one machine; set at_once=N to use several machines of a Ray cluster"
            )
        if at_once == 1 or grid.config.address == "local":
            launcher.check_ranks(config.ranks)
            setup.check_packages(config)
        manifest = run_folder.divided(config, manifest_of(config.data, config.cache_dir))
        if not (trial.folder / CONFIG_FILE).exists():  # an earlier trial of this kind may continue
            setup.check_new(config.for_data(manifest.spec))
            setup.check_solver_steps(config, manifest)
            setup.check_initial(config, manifest)
        loaders.evaluation(config, config.data, manifest, grid.config.evaluate, alone())
        return setup.steps(config, manifest)
    except DriftworkError as error:
        raise DriftworkError(f"{grid.file}: trial {trial.name}: {error}") from None


def _state(grid: Grid, trial: Trial, manifest_of: Callable[[Place, Path | None], Manifest]) -> State:
    """Return a trial's progress. Raises `DriftworkError` if its folder contains a run of another config."""
    if not (trial.folder / CONFIG_FILE).exists():
        return State(done=False, step=0)
    spec = manifest_of(trial.config.data, trial.config.cache_dir).spec  # a started trial has values from it
    there, here = (flatten(config.for_data(spec)) for config in (run_folder.config_of(trial.folder), trial.config))
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key) and not key.startswith(_MAY_DIFFER):
            raise DriftworkError(
                f"{trial.folder}: holds a run with {key}={there.get(key)}, and the grid sets {here.get(key)}; "
                "give the sweep another out, or delete this one"
            )
    record = run_folder.record_of(trial.folder)
    done = bool(record.get(trial_process.TRAINED)) and grid.config.evaluate in record.get(trial_process.EVALUATED, ())
    return State(done, checkpoint.last_step(trial.folder))


def _list(grid: Grid, steps: list[int], states: list[State]) -> None:
    """Print the trials with the maximum number of steps of each; early stopping may reduce it."""
    left = [0 if state.done else n - state.step for n, state in zip(steps, states, strict=True)]
    widest = max(len(trial.name) for trial in grid.trials)
    print(f"{grid.name}: {len(grid.trials)} trials in {grid.out}, at most {sum(left):,} steps left")
    for number, (trial, n, state) in enumerate(zip(grid.trials, steps, states, strict=True), 1):
        about = "done" if state.done else f"continues from step {state.step:,}" if state.step else ""
        print(f"{number:4d}  {trial.name:{widest}s}  {n:8,d} steps  {about}".rstrip(), flush=True)


def _sweep(grid: Grid, todo: list[Trial], at_once: int, manifests: dict[Place, Manifest]) -> None:
    """Run the trials under the parent run, which creates the store before several processes open it."""
    data = {run_folder.names(trial.config)[0] for trial in grid.trials}
    experiment = data.pop() if len(data) == 1 else grid.name  # parent and children must share one
    tracking = grid.trials[0].config.tracking.model_copy(update={"run_name": None})
    failed: list[str] = []
    with open_run(
        tracking, experiment=experiment, run_name=grid.name, run_folder=grid.out,
        tags={tags.GRID: grid.name, tags.DATA: experiment}, run_id=run_folder.record_of(grid.out).get("run_id"),
    ) as tracker:  # fmt: skip
        _describe(grid, tracker)
        for where, manifest in manifests.items():
            tracker.dataset(dataset.described(manifest, where))
        name = tracking.experiment or experiment
        print(f"experiment '{name}'; the log of each trial: {grid.out}/TRIAL/{trial_process.LOG}", flush=True)
        for trial in todo:
            _make_folder(grid, trial, name, tracker.run_id)
        at_once = min(at_once, len(todo))
        running = _at_once(grid, todo, at_once) if at_once > 1 else _in_turn(grid, todo)
        with _withdrawn_if_refused(todo), closing(running) as ended:
            for count, (trial, outcome) in enumerate(ended, 1):
                result = (
                    f"failed: {printable(outcome.reason)}; see {trial.folder / trial_process.LOG}"
                    if outcome.code
                    else "done"
                )
                print(f"{count}/{len(todo)} {trial.name}: {result} ({outcome.seconds / 60:.1f} min)", flush=True)
                if outcome.code:
                    failed.append(trial.name)
        _show(grid)
        if failed:
            again = "call this command again to continue them"
            raise TrialsFailedError(f"{len(failed)} of {len(grid.trials)} trials failed, {'; '.join(failed)}: {again}")
        for file in _figure(grid):
            tracker.artifact(file, "outputs")
    print(f"{len(grid.trials)} trials done; results in {grid.out}, and `driftwork ui`, experiment '{name}'")


@contextmanager
def _withdrawn_if_refused(todo: list[Trial]) -> Iterator[None]:
    """Delete the folders of trials that have not begun if the sweep is refused, for example by a Ray cluster."""
    try:
        yield
    except DriftworkError:
        for trial in todo:
            run_folder.withdraw_unbegun(trial.folder)
        raise


def _show(grid: Grid) -> None:
    """Print the tables of the evaluated trials, as `driftwork compare` does."""
    done = [trial.folder for trial in grid.trials if is_evaluated(trial.folder, grid.config.evaluate)]
    try:
        for table in compared(done, grid.config.evaluate) if done else ():
            tables.show(table)
    except DriftworkError as error:  # trials of several data sets do not share a table
        print(f"no table of all trials: {error}", flush=True)


def _figure(grid: Grid) -> list[Path]:
    """Draw the first trial of each model side by side, and return the files; none for a single model."""
    first: dict[str, Trial] = {}
    for trial in grid.trials:
        first.setdefault(trial.config.model.name, trial)
    data = {trial.config.data for trial in first.values()}
    if len(first) < 2 or len(data) > 1:
        return []
    return showcase_models.write(grid.out / "outputs", [trial.folder for trial in first.values()], grid.config.evaluate)


def _describe(grid: Grid, tracker: Tracker) -> None:
    if tracker.run_id is not None:
        run_folder.remember(grid.out, run_id=tracker.run_id)
    varied: dict[str, list[Any]] = {}
    for trial in grid.trials:
        for key, value in trial.values.items():
            if value not in varied.setdefault(key, []):
                varied[key].append(value)
    tracker.params({f"grid.{key}": values for key, values in varied.items()})
    tracker.artifact(grid.file)


def _make_folder(grid: Grid, trial: Trial, experiment: str, parent: str | None) -> None:
    if not (trial.folder / CONFIG_FILE).exists():  # an existing trial keeps its config and its tracked run
        tracking = trial.config.tracking.model_copy(update={"experiment": experiment, "parent": parent})
        run_folder.create(trial.config.model_copy(update={"tracking": tracking}))
    about = {tags.GRID: grid.name, **{f"{tags.GRID}.{key}": str(value) for key, value in trial.values.items()}}
    run_folder.remember(trial.folder, tags=about, command=grid.command)


def _in_turn(grid: Grid, todo: list[Trial]) -> Generator[tuple[Trial, Outcome], None, None]:
    for trial in todo:
        yield trial, trial_process.run(*_arguments(grid, trial, at_once=1))


def _at_once(grid: Grid, todo: list[Trial], at_once: int) -> Generator[tuple[Trial, Outcome], None, None]:
    """Run trials as Ray tasks that hold the devices while the trial's process uses them."""
    from pipeline.prepare import cluster

    with cluster.connected(grid.config.address) as nodes:
        waiting: deque[cluster.Task] = deque()
        for number, trial in enumerate(todo):
            all_devices, largest = (nodes.gpus, nodes.gpus_of_one) if nodes.gpus else (nodes.cpus, nodes.cpus_of_one)
            held = _held(trial.config.ranks, all_devices, largest, at_once)
            devices = {"gpus": held, "cpus": 0.0} if nodes.gpus else {"cpus": held}
            waiting.append(cluster.Task(number, _arguments(grid, trial, at_once), **devices))
        with closing(cluster.work(trial_process.run, waiting, at_once, retries=0)) as ended:
            for number, result in ended:
                try:
                    yield todo[number], result()
                except cluster.TaskDiedError:
                    yield todo[number], Outcome(1, "its Ray worker died", 0.0)


def _held(ranks: int, devices: int, largest: int, at_once: int) -> float:
    """Return the devices that a trial reserves, one per rank. If there are too few for `at_once` trials of one rank,
    they share; trials of several ranks wait instead, since Ray can divide only a single device."""
    if ranks > largest:
        raise DriftworkError(
            f"ranks={ranks}: the largest machine of this cluster has {largest} devices; set ranks={largest}"
        )
    return min(1.0, devices / at_once) if ranks == 1 else float(ranks)


def _arguments(grid: Grid, trial: Trial, at_once: int) -> tuple[Path, str, int, Path, dict[str, str]]:
    share = max(1, (os.cpu_count() or 1) // (at_once * trial.config.ranks))
    threads = int(os.environ.get("OMP_NUM_THREADS") or share)
    login = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_TRACKING_")}
    return trial.folder.absolute(), grid.config.evaluate, threads, Path.cwd(), login


if __name__ == "__main__":
    raise SystemExit(run("sweep", main, sys.argv[1:]))
