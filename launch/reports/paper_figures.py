"""The papers' figures for a group of runs, as far as the runs have the data."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from launch.figures import scores as figures_scores
from launch.figures.scores import Panel
from launch.reports.rows import Group, Kind, with_other_rates
from launch.scoring import comparison
from launch.scoring.estimates import over_seeds
from launch.scoring.metrics import METRICS
from launch.scoring.scores import SplitScores
from launch.scoring.side_by_side import Column, columns_of

_TASKS = ("density", "prediction", "interpolation")
_MOST_LINES = 8
"""Maximum number of distinguishable lines; beyond it only one setting per model is drawn."""


class Drawn(NamedTuple):
    files: list[Path]
    title: str
    caption: str
    kinds: list[Kind]
    """Kinds of runs that the figure shows."""


def draw(group: Group, folder: Path, prefix: str) -> list[Drawn]:
    """Draw the possible figures into `folder`, as PNG and PDF: figure 2, figure 4, the error against the horizon."""
    found = [
        _observations(group, folder / f"{prefix}figure2"),
        _grid(group.kinds, folder / f"{prefix}figure4"),
        _horizons(group, folder / f"{prefix}forecast-horizon"),
    ]
    return [drawn for drawn in found if drawn is not None]


def _with_points(group: Group, number: Callable[[Kind], int], at_least: int) -> list[Kind]:
    """Return the kinds with at least this many points on a line; if there are too many, the best of each model."""
    fit = group._replace(kinds=[kind for kind in group.kinds if number(kind) >= at_least])
    return fit.kinds if len(fit.kinds) <= _MOST_LINES else fit.chosen


def _observations(group: Group, path: Path) -> Drawn | None:
    """Draw figure 2: scores against the fraction of observed frames."""
    panels = []
    kinds = _with_points(group, lambda kind: max(len(_own_points(with_other_rates(kind), t)) for t in _TASKS), 3)
    tables = {kind.full_label: with_other_rates(kind) for kind in kinds}
    for task in _TASKS:
        columns = _columns(tables.values(), task)
        lines = {name: _points(scored, columns) for name, scored in tables.items()}
        lines = {name: line for name, line in lines.items() if len(line) > 2}
        if lines:
            panels.append(Panel(task, METRICS[columns[0].metric].label, lines))
    if not panels:
        return None
    title = "Scores against the fraction of observed frames"
    files = figures_scores.lines(path, [panels], "observed frames, %")
    return Drawn(files, f"Figure 2. {title}", "Bars: one standard error to either side.", kinds)


def _horizons(group: Group, path: Path) -> Drawn | None:
    """Draw the error of forecasts against their horizon."""
    kinds = _with_points(group, lambda kind: len(_own_points(kind.tables, "forecast")), 2)
    columns = _columns([kind.tables for kind in kinds], "forecast")
    lines = {kind.full_label: _points(kind.tables, columns) for kind in kinds}
    free = comparison.free([member.evaluated for kind in kinds for member in kind.members])
    if not lines:
        return None
    if "persistence" in free:
        lines["last observed frame"] = _points(free["persistence"], columns)
    title = "Error of forecasts against their horizon in frames"
    files = figures_scores.lines(path, [[Panel("", METRICS[columns[0].metric].label, lines)]], "frames", doubling=True)
    caption = "Mean over all frames up to the horizon. Bars: one standard error to either side."
    return Drawn(files, title, caption, kinds)


def _grid(kinds: list[Kind], path: Path) -> Drawn | None:
    """Draw figure 4: scores against the number of latent dimensions, a line for each beta and a column of panels for
    each model.
    """
    families: dict[str, list[Kind]] = {}
    for kind in kinds:
        families.setdefault(kind.label + repr(sorted(_rest(kind).items(), key=str)), []).append(kind)
    grown = [same for same in families.values() if len({_latent(kind) for kind in same}) > 1]
    if not grown:
        return None
    rows: list[list[Panel]] = []
    for column in _first_columns([table for same in grown for kind in same for table in kind.tables]):
        row = []
        for same in grown:
            lines: dict[str, list[Any]] = {}
            for kind in same:
                scores = [scored for scored in map(column.of, kind.tables) if scored is not None]
                if len(scores) == len(kind.tables):
                    line = lines.setdefault(f"β = {kind.settings['train.beta']:g}", [])
                    line.append((float(_latent(kind)), over_seeds(scores)))
            row.append(Panel(_family(same, grown), f"{_task(column)}\n{METRICS[column.metric].label}", lines))
        rows.append(row)
    title = "Scores against the number of latent dimensions"
    files = figures_scores.lines(path, rows, "latent dimensions", doubling=True)
    caption = "β weighs the KL in training; scores are at β = 1. Bars: one standard error to either side."
    return Drawn(files, f"Figure 4. {title}", caption, [kind for same in grown for kind in same])


def _rest(kind: Kind) -> dict[str, Any]:
    return {key: x for key, x in kind.settings.items() if key not in ("train.beta", "model.latent")}


def _latent(kind: Kind) -> int:
    return int(kind.settings.get("model.latent", 0))  # a baseline has none


def _family(same: list[Kind], families: list[list[Kind]]) -> str:
    label = same[0].label
    rivals = [_rest(other[0]) for other in families if other[0].label == label]
    return comparison.labelled(label, comparison.differing(_rest(same[0]), rivals))


def _first_columns(tables: list[SplitScores]) -> list[Column]:
    """Return the lowest rate of each task, and the longest horizon of forecasts."""
    columns = columns_of(tables)
    by_task = {column.task: column for column in reversed(columns) if column.task != "forecast"}
    longest = [column for column in columns if column.task == "forecast"][-1:]
    return [*reversed(by_task.values()), *longest]


def _task(column: Column) -> str:
    unit = "frames" if column.task == "forecast" else "% observed"
    return f"{column.task}, {column.name} {unit}"


def _columns(kinds: Iterable[list[SplitScores]], task: str) -> list[Column]:
    """Return the rates or horizons at which any of the kinds was scored on the task, with the metric that all share."""
    return [column for column in columns_of([table for runs in kinds for table in runs]) if column.task == task]


def _points(runs: list[SplitScores], columns: list[Column]) -> list[Any]:
    """Return (rate or horizon, mean over the runs) where all of them were scored."""
    points = []
    for column in columns:
        scores = [scored for scored in map(column.of, runs) if scored is not None]
        if len(scores) == len(runs):
            points.append((float(column.name), over_seeds(scores)))
    return points


def _own_points(runs: list[SplitScores], task: str) -> list[Any]:
    return _points(runs, _columns([runs], task))
