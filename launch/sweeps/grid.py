"""Read and check a grid file, which defines the trials of a sweep; nothing is started.

    base: ../train/vsdn_vae_lakh.yaml            a train config; several of them vary too
    set: {train.max_epochs: 40}                  settings of every trial
    grid: {train.beta: [0.1, 1], train.seed: [0, 1]}                     every combination
    zip: {model.latent: [8, 32], model.width: [64, 256]}                 first with first, second with second
    runs: [{model.gamma: 1}, {model.variance: none}]                     one by one

A trial takes one base, one combination, one row and one run, so that the number of trials is the product of their
numbers.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from driftwork.command import typed
from driftwork.config_base import Config, apply, build, config_file, load, read_mapping, shortened
from driftwork.errors import DriftworkError, without_login
from launch.runs.config import RunConfig
from launch.tracker import login

BASE = "base"
"""Key of a trial's values for the name of its train config, if there are several."""

_MOST_TRIALS = 1000
"""Maximum number of trials; a few short lists give more than can be run."""
_MOST_KEYS = 64
"""Maximum number of varying keys, whose values form the name of a trial's folder."""
_LONGEST_NAME = 255
"""Maximum number of characters of a folder's name, on any common file system."""
_KEY = re.compile(r"[A-Za-z0-9_.]+")


def _dotted(overrides: dict[str, Any]) -> dict[str, Any]:
    """Turn `train: {beta: 1}` into `train.beta: 1`, since a section as an override would reset its other keys."""
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        inner = {f"{key}.{word}": x for word, x in value.items()} if isinstance(value, dict) else {}
        flat.update(_dotted(inner) if inner else {key: value})
    return flat


def _writable(values: dict[str, Any]) -> dict[str, Any]:
    """Return values in the form of overrides on a command line."""
    for key in values:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!a} is not a dotted key, such as train.beta")
    try:
        json.dumps(values, default=str)
    except TypeError as error:  # for example a date as a key
        raise ValueError(str(error)) from None
    return values


OWN = ("base", "name", "out", "evaluate", "at_once", "address")
"""Keys of `GridConfig` that the command line can set."""

Overrides = Annotated[dict[str, Any], AfterValidator(_dotted), AfterValidator(_writable)]
Rows = Annotated[dict[str, tuple[Any, ...]], AfterValidator(_writable)]


class GridConfig(Config):
    base: Path | tuple[Path, ...]
    """Train config that all runs start from, relative to the grid file. With a list, each config starts its own
    runs."""
    set: Overrides = Field({})
    """Overrides that apply to every run, by dotted key."""
    grid: Rows = Field({})
    """Lists of values by dotted key; every combination of them is a run."""
    zip: Rows = Field({})
    """Lists of equally many values by dotted key; the first values of all make a run, then the second values, and so
    on."""
    runs: tuple[Overrides, ...] = ()
    """List of overrides by dotted key; each item makes a run."""
    name: str | None = None
    """Name of the parent run. Null takes the name of the grid file."""
    out: Path | None = None
    """Folder of the run folders. Null makes runs/NAME."""
    evaluate: Literal["val", "test"] = "test"
    """Split that each trained run is scored on."""
    at_once: int | None = Field(None, ge=1)
    """Number of runs trained at the same time. Above 1 they run on Ray, and each reserves as many GPUs, or else CPU
    cores, as it has ranks. Null takes as many as this machine's GPUs have room for, and 1 without GPUs or Ray."""
    address: str = "local"
    """Ray cluster that runs trained at the same time use. `local` starts Ray on this machine; `auto` or HOST:PORT joins
    a cluster whose machines share the files."""


class Trial(NamedTuple):
    name: str
    """Name, made of the trial's differing values, as in `beta=0.1, latent=8`."""
    values: dict[str, Any]
    """Value of each setting that the grid sets, by dotted key."""
    config: RunConfig

    @property
    def folder(self) -> Path:
        return Path(str(self.config.out))


class Grid(NamedTuple):
    command: str
    """The command line as it was typed."""
    file: Path
    name: str
    out: Path
    config: GridConfig
    trials: tuple[Trial, ...]


def read(argv: list[str]) -> Grid:
    """Read `GRID.yaml key=value ...`. Keys of `GridConfig` are settings of the sweep; all other keys apply to every
    trial.

    Raises:
        DriftworkError: the grid is invalid; the trial is named if only one is at fault.
    """
    grid, overrides = parsed(argv)
    return grid._replace(trials=tuple(_trials(grid, overrides)))


def parsed(argv: list[str]) -> tuple[Grid, list[str]]:
    """Return a grid without its trials, and the words of the command line that apply to every trial."""
    if not argv or ("=" in argv[0] and not Path(argv[0]).exists()):
        raise DriftworkError("the first argument is a grid, as in configs/grids/vsdn_lakh_small.yaml data=DIR")
    file = config_file(argv[0])
    raw = read_mapping(file)
    own = [argument for argument in argv[1:] if argument.partition("=")[0] in OWN]
    for argument in own:
        apply(raw, argument)
    if BASE not in raw and "model" in raw:
        raise DriftworkError(f"{file}: a config of one run, not a grid; a grid names it as base: (docs/sweeps.md)")
    config = build(GridConfig, raw, where=str(file))
    name = config.name or file.stem
    grid = Grid(typed("sweep", argv), file, name, config.out or Path("runs") / name, config, ())
    return grid, [argument for argument in argv[1:] if argument not in own]


def combined(grid: Grid, overrides: list[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the train config of each trial and the values that differ between trials, by key. Where there are several
    configs, `BASE` is the key of their names."""
    bases = {base.stem: grid.file.parent / base for base in _bases(grid.config)}
    for values in _combinations(grid, overrides):
        yield bases[values.get(BASE, next(iter(bases)))], values


def _trials(grid: Grid, overrides: list[str]) -> Iterator[Trial]:
    names: dict[str, int] = {}
    configs: dict[str, int] = {}
    combinations = list(combined(grid, overrides))
    labels = shortened({key for _, values in combinations for key in values})
    for number, (base, values) in enumerate(combinations, 1):
        parts = [_part(labels[key], value) for key, value in values.items()]
        name, where = ", ".join(parts), f"{grid.file}: trial {number} ({', '.join(parts)})"
        folder = grid.out / ",".join(parts)
        if len(folder.name) > _LONGEST_NAME:
            raise DriftworkError(
                f"{where[:200]}...: its values make a folder's name of {len(folder.name)} characters; shorten them"
            )
        own = {**grid.config.set, **{key: value for key, value in values.items() if key != BASE}}
        last = {"out": str(folder), "tracking.run_name": name}
        try:
            config = load(RunConfig, base, [*own.items(), *overrides, *last.items()])
        except DriftworkError as error:
            raise DriftworkError(f"{where}: {error}") from None
        essence = config.model_dump_json(exclude={"out": True, "tracking": True})
        twin = configs.setdefault(essence, number)
        if twin != number:
            raise DriftworkError(f"{where}: the same run as trial {twin}; every trial must differ")
        if names.setdefault(folder.name, number) != number:
            raise DriftworkError(
                f"{where}: its folder {folder} is that of trial {names[folder.name]} too; change a value"
            )
        yield Trial(name, values, config)


def _combinations(grid: Grid, overrides: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the values of each trial, in the order of the file."""
    config = grid.config
    _check_keys(grid, overrides)
    if len({len(values) for values in config.zip.values()}) > 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in config.zip.items())
        raise DriftworkError(f"{grid.file}: zip needs equally many values for each key, but {lengths}")
    for key, values in (*config.grid.items(), *config.zip.items(), (BASE, _bases(config))):
        if not values:
            raise DriftworkError(f"{grid.file}: {key} has no values, so there is nothing to run; list some")
    bases = [base.stem for base in _bases(config)]
    if len(set(bases)) < len(bases):
        raise DriftworkError(f"{grid.file}: base: list each train config only once")
    if len(bases) == 1 and not (config.grid or config.zip or config.runs):
        raise DriftworkError(f"{grid.file}: nothing varies, so there is nothing to run; give grid, zip or runs")
    _check_size(grid)
    rows = [dict(zip(config.zip, row, strict=True)) for row in zip(*config.zip.values(), strict=True)] or [{}]
    products = [dict(zip(config.grid, values, strict=True)) for values in itertools.product(*config.grid.values())]
    for base, run, row, product in itertools.product(bases, config.runs or ({},), rows, products):
        yield {**({BASE: base} if len(bases) > 1 else {}), **run, **row, **product}


def _check_size(grid: Grid) -> None:
    config = grid.config
    keys = {*config.grid, *config.zip, *(key for run in config.runs for key in run)}
    if len(keys) > _MOST_KEYS:
        raise DriftworkError(f"{grid.file}: {len(keys)} keys vary; a sweep takes at most {_MOST_KEYS}")
    factors = (_bases(config), config.runs, next(iter(config.zip.values()), ()), *config.grid.values())
    if math.prod(max(1, len(values)) for values in factors) > _MOST_TRIALS:
        raise DriftworkError(f"{grid.file}: more than {_MOST_TRIALS:,} trials, the maximum of a sweep; divide the grid")


def _check_keys(grid: Grid, overrides: list[str]) -> None:
    """Check that each key has only one place, and none is set by the sweep itself."""
    config = grid.config
    in_runs = {key for run in config.runs for key in run}
    places: dict[str, Iterable[str]] = {"set": config.set, "grid": config.grid, "zip": config.zip, "runs": in_runs}
    first: dict[str, str] = {}
    for place, keys in places.items():
        for key in keys:
            if key in first:
                raise DriftworkError(f"{grid.file}: {key} is set under {first[key]} and under {place}; keep one")
            first[key] = place
    given = [override.partition("=")[0] for override in overrides]
    for key in (*first, *given):
        if key in ("out", "tracking.run_name", "tracking.parent", BASE):
            raise DriftworkError(f"{grid.file}: {key} of a trial is set by the sweep; remove it")
    uri = str(config.set.get("tracking.uri"))
    if without_login(uri) != uri:  # the file is copied to the tracker
        raise DriftworkError(f"{grid.file}: tracking.uri: a login does not belong in a grid; export {login.USER}=...")
    if first.get("tracking.uri", "set") != "set":
        raise DriftworkError(
            f"{grid.file}: tracking.uri cannot vary: all trials are in the store of the sweep; set it once"
        )
    for key in given:  # the command line may change only values that all trials share
        if first.get(key, "set") != "set":
            raise DriftworkError(f"{grid.file}: {key} varies from trial to trial; the file alone can change it")


def _bases(config: GridConfig) -> tuple[Path, ...]:
    return (config.base,) if isinstance(config.base, Path) else config.base


def _part(label: str, value: Any) -> str:
    """Return `beta=0.1`, or only the value for a model or a base, in a form that is valid in a folder's name."""
    text = "+".join(map(_text, value)) if isinstance(value, list) else _text(value)
    return text if label in ("name", BASE) else f"{label}={text}"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text)
