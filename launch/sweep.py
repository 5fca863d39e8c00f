"""`driftwork sweep GRID.yaml [--dry-run] [key=value ...]`: the cells of a grid trained and scored under one parent run.

Everything is checked before the first cell starts. A cell that fails is reported and the others go on. Called again, it
leaves alone what is finished and goes on with the rest. Which is which stands in the run folders.
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
from launch.checks import store
from launch.evaluation import showcase_models
from launch.job import launcher
from launch.job.signals import sigterm_exits
from launch.runs import loaders, run_folder
from launch.runs.config import CONFIG_FILE
from launch.runs.distributed import alone
from launch.scoring import tables
from launch.scoring.comparison import compared
from launch.scoring.results import is_evaluated
from launch.sweeps import grid as grids
from launch.sweeps import trial
from launch.sweeps.grid import Cell, Grid
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
  --dry-run  Check the grid and list its runs, and start none."""

_LOCK = "sweep.lock"
_MAY_DIFFER = ("out", "tracking.", "loader_workers", "cache_dir")
"""Beginnings of keys that an unfinished cell need not share with the file: its folder's config holds."""


class CellsFailedError(Exception):
    """After all others have had their turn."""


class State(NamedTuple):
    """How far a cell is, from its folder."""

    done: bool
    step: int
    """Of its last checkpoint."""


@command(USAGE, settings=settings)
def main(argv: list[str]) -> int:
    arguments = [argument for argument in argv if argument != "--dry-run"]
    grid = grids.read(arguments)
    if grid.config.at_once == 1 and any(argument.startswith("address=") for argument in arguments):
        raise DriftworkError(f"address={grid.config.address} has no effect without at_once=N, N above 1; remove it")
    if grid.config.at_once > 1 and find_spec("ray") is None:  # an installation that only trains has none
        raise DriftworkError(f"at_once={grid.config.at_once}: Ray is not installed; pip install -e '.[prepare]'")
    manifest_of = cache(find_manifest)  # cells share their data
    steps = [_check(grid, cell, manifest_of) for cell in grid.cells]
    places = dict.fromkeys((cell.config.data, cell.config.cache_dir) for cell in grid.cells)
    for where in places:
        verify(local(*where, manifest_of(*where), thorough=True))
    states = [_state(grid, cell) for cell in grid.cells]
    dry = "--dry-run" in argv
    if not dry:
        store.require(grid.cells[0].config.tracking.uri)
    _list(grid, steps, states)
    if dry:
        return 0
    try:
        print("Ctrl-C lets what runs save, and ends the sweep; a second one ends it at once", flush=True)
        with sigterm_exits(), locked(grid.out / _LOCK, f"out={grid.out}", "sweep"):
            with writing(f"out={grid.out}"):
                require_room(grid.out)
            todo = [cell for cell, state in zip(grid.cells, states, strict=True) if not state.done]
            _sweep(grid, todo, {where[0]: manifest_of(*where) for where in places})
    except CellsFailedError as failed:
        print(failed, flush=True)
        return 1
    except (KeyboardInterrupt, SystemExit):
        print(f"interrupted; runs in training were told to save. Go on with: {grid.command}", flush=True)
        raise
    return 0


def _check(grid: Grid, cell: Cell, manifest_of: Callable[[Place, Path | None], Manifest]) -> int:
    """The most steps that it takes, after what `train` would check, but for the hashes of the data."""
    config = cell.config
    try:
        if config.hostfile is not None:
            raise DriftworkError("hostfile: a cell runs on one machine; at_once=N takes several, of a Ray cluster")
        if grid.config.at_once == 1 or grid.config.address == "local":
            launcher.check_ranks(config.ranks)
        manifest = run_folder.divided(config, manifest_of(config.data, config.cache_dir))
        loaders.evaluation(config, config.data, manifest, grid.config.evaluate, alone())
        return setup.steps(config, manifest)
    except DriftworkError as error:
        raise DriftworkError(f"{grid.file}: cell {cell.name}: {error}") from None


def _state(grid: Grid, cell: Cell) -> State:
    """Raises `DriftworkError` when the folder holds a run of another config."""
    if not (cell.folder / CONFIG_FILE).exists():
        return State(done=False, step=0)
    there, here = flatten(run_folder.config_of(cell.folder)), flatten(cell.config)
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key) and not key.startswith(_MAY_DIFFER):
            raise DriftworkError(
                f"{cell.folder}: holds a run with {key}={there.get(key)}, and the grid says {here.get(key)}; "
                "give the sweep another out, or delete this one"
            )
    record = run_folder.record_of(cell.folder)
    done = bool(record.get(trial.TRAINED)) and grid.config.evaluate in record.get(trial.EVALUATED, ())
    return State(done, checkpoint.last_step(cell.folder))


def _list(grid: Grid, steps: list[int], states: list[State]) -> None:
    """The cells, with what each costs at most; early stopping may make it less."""
    left = [0 if state.done else n - state.step for n, state in zip(steps, states, strict=True)]
    widest = max(len(cell.name) for cell in grid.cells)
    print(f"{grid.name}: {len(grid.cells)} cells in {grid.out}, at most {sum(left):,} steps to go")
    for number, (cell, n, state) in enumerate(zip(grid.cells, steps, states, strict=True), 1):
        about = "done" if state.done else f"goes on from step {state.step:,}" if state.step else ""
        print(f"{number:4d}  {cell.name:{widest}s}  {n:8,d} steps  {about}".rstrip(), flush=True)


def _sweep(grid: Grid, todo: list[Cell], manifests: dict[Place, Manifest]) -> None:
    """Under the parent run, which creates the store before several processes open it."""
    data = {run_folder.names(cell.config)[0] for cell in grid.cells}
    experiment = data.pop() if len(data) == 1 else grid.name  # parent and children must share one
    tracking = grid.cells[0].config.tracking.model_copy(update={"run_name": None})
    failed: list[str] = []
    with open_run(
        tracking, experiment=experiment, run_name=grid.name, run_folder=grid.out,
        tags={tags.GRID: grid.name, tags.DATA: experiment}, run_id=run_folder.record_of(grid.out).get("run_id"),
    ) as tracker:  # fmt: skip
        _describe(grid, tracker)
        for where, manifest in manifests.items():
            tracker.dataset(dataset.described(manifest, where))
        name = tracking.experiment or experiment
        print(f"experiment '{name}'; the log of each cell: {grid.out}/CELL/{trial.LOG}", flush=True)
        for cell in todo:
            _make_folder(grid, cell, name, tracker.run_id)
        start = _at_once if grid.config.at_once > 1 and todo else _in_turn
        with _withdrawn_if_refused(todo), closing(start(grid, todo)) as ended:
            for count, (cell, outcome) in enumerate(ended, 1):
                result = f"failed: {printable(outcome.said)}; see {cell.folder / trial.LOG}" if outcome.code else "done"
                print(f"{count}/{len(todo)} {cell.name}: {result} ({outcome.seconds / 60:.1f} min)", flush=True)
                if outcome.code:
                    failed.append(cell.name)
        _show(grid)
        if failed:
            again = "called again, this command goes on with them"
            raise CellsFailedError(f"{len(failed)} of {len(grid.cells)} cells failed, {'; '.join(failed)}: {again}")
        for file in _figure(grid):
            tracker.artifact(file, "outputs")
    print(f"{len(grid.cells)} cells done; results in {grid.out}, and `driftwork ui`, experiment '{name}'")


@contextmanager
def _withdrawn_if_refused(todo: list[Cell]) -> Iterator[None]:
    """Leave no folder of a cell that has not begun where the sweep is refused, as by a Ray cluster."""
    try:
        yield
    except DriftworkError:
        for cell in todo:
            run_folder.withdraw_unbegun(cell.folder)
        raise


def _show(grid: Grid) -> None:
    """Print the tables of the cells that are evaluated, as `driftwork compare` does."""
    done = [cell.folder for cell in grid.cells if is_evaluated(cell.folder, grid.config.evaluate)]
    try:
        for table in compared(done, grid.config.evaluate) if done else ():
            tables.show(table)
    except DriftworkError as error:  # cells of several data sets stand in no table together
        print(f"no table of all cells: {error}", flush=True)


def _figure(grid: Grid) -> list[Path]:
    """Draw the first cell of each model beside those of the others; returns the files, none for a single model."""
    first: dict[str, Cell] = {}
    for cell in grid.cells:
        first.setdefault(cell.config.model.name, cell)
    data = {cell.config.data for cell in first.values()}
    if len(first) < 2 or len(data) > 1:
        return []
    return showcase_models.write(grid.out / "outputs", [cell.folder for cell in first.values()], grid.config.evaluate)


def _describe(grid: Grid, tracker: Tracker) -> None:
    if tracker.run_id is not None:
        run_folder.remember(grid.out, run_id=tracker.run_id)
    varied: dict[str, list[Any]] = {}
    for cell in grid.cells:
        for key, value in cell.values.items():
            if value not in varied.setdefault(key, []):
                varied[key].append(value)
    tracker.params({f"grid.{key}": values for key, values in varied.items()})
    tracker.artifact(grid.file)


def _make_folder(grid: Grid, cell: Cell, experiment: str, parent: str | None) -> None:
    if not (cell.folder / CONFIG_FILE).exists():  # it goes on under the config, and in the run, that it began with
        tracking = cell.config.tracking.model_copy(update={"experiment": experiment, "parent": parent})
        run_folder.create(cell.config.model_copy(update={"tracking": tracking}))
    about = {tags.GRID: grid.name, **{f"{tags.GRID}.{key}": str(value) for key, value in cell.values.items()}}
    run_folder.remember(cell.folder, tags=about, command=grid.command)


def _in_turn(grid: Grid, todo: list[Cell]) -> Generator[tuple[Cell, Outcome], None, None]:
    for cell in todo:
        yield cell, trial.run(*_arguments(grid, cell, at_once=1))


def _at_once(grid: Grid, todo: list[Cell]) -> Generator[tuple[Cell, Outcome], None, None]:
    """As Ray tasks that hold the devices while the process of the cell uses them."""
    from pipeline.prepare import cluster

    at_once = min(grid.config.at_once, max(1, len(todo)))
    with cluster.connected(grid.config.address) as nodes:
        waiting: deque[cluster.Task] = deque()
        for number, cell in enumerate(todo):
            all_devices, largest = (nodes.gpus, nodes.gpus_of_one) if nodes.gpus else (nodes.cpus, nodes.cpus_of_one)
            held = _held(cell.config.ranks, all_devices, largest, at_once)
            devices = {"gpus": held, "cpus": 0.0} if nodes.gpus else {"cpus": held}
            waiting.append(cluster.Task(number, _arguments(grid, cell, at_once), **devices))
        with closing(cluster.work(trial.run, waiting, at_once, retries=0)) as ended:
            for number, result in ended:
                try:
                    yield todo[number], result()
                except cluster.TaskDiedError:
                    yield todo[number], Outcome(1, "the Ray worker that watched over it died", 0.0)


def _held(ranks: int, devices: int, largest: int, at_once: int) -> float:
    """Devices that a cell reserves: one a rank. Where that leaves too few for `at_once` cells of one rank, they share;
    cells of several ranks wait instead, as Ray divides one device only."""
    if ranks > largest:
        raise DriftworkError(f"ranks={ranks}: the largest machine of this cluster has {largest} devices")
    return min(1.0, devices / at_once) if ranks == 1 else float(ranks)


def _arguments(grid: Grid, cell: Cell, at_once: int) -> tuple[Path, str, int, Path, dict[str, str]]:
    share = max(1, (os.cpu_count() or 1) // (at_once * cell.config.ranks))
    threads = int(os.environ.get("OMP_NUM_THREADS") or share)
    login = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_TRACKING_")}
    return cell.folder.absolute(), grid.config.evaluate, threads, Path.cwd(), login


if __name__ == "__main__":
    raise SystemExit(run("sweep", main, sys.argv[1:]))
