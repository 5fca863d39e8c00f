"""Evaluation results: as files, for a tracker, and as a table in the terminal."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from driftwork.command import typed
from driftwork.errors import DriftworkError
from driftwork.files import aside, read_json
from launch.scoring import tables
from launch.scoring.estimates import Estimate, Scores, estimate
from launch.scoring.metrics import METRICS
from launch.scoring.scores import SplitScores

_AGAIN = "evaluate the run again"

Leaf = TypeVar("Leaf")

Estimates = dict[str, dict[str, dict[str, Estimate]]]
"""task -> rate in percent, or horizon in frames -> metric -> estimate over all sequences"""


def merge(into: dict[str, dict[str, Leaf]], more: dict[str, dict[str, Leaf]]) -> None:
    """Add the columns of `more`, by task, to `into`."""
    for task, columns in more.items():
        into.setdefault(task, {}).update(columns)


def concatenated(parts: list[SplitScores]) -> SplitScores:
    """Concatenate scores of different sequences, sorted by key like those of one split."""
    together: SplitScores = {}
    for task, columns in parts[0].items():
        for column, metrics in columns.items():
            for metric in metrics:
                if any(metric not in part[task][column] for part in parts):
                    continue  # evaluated before or after the metric was scored
                rows = sorted(row for part in parts for row in zip(*part[task][column][metric], strict=True))
                together.setdefault(task, {}).setdefault(column, {})[metric] = Scores(*zip(*rows, strict=True))
    return together


def estimates(scored: SplitScores) -> Estimates:
    return _each(estimate, scored, 3)


def values(found: Estimates) -> dict[str, float]:
    """Return the values by their names at a tracker, TASK_COLUMN_METRIC; a dashboard truncates names, so the differing
    parts come first."""
    return {
        f"{task}_{column}_{metric}": x.value
        for task, columns in found.items()
        for column, metrics in columns.items()
        for metric, x in metrics.items()
        if math.isfinite(x.value)
    }


def write_results(folder: Path, name: str, scored: dict[str, SplitScores]) -> list[Path]:
    """Write the scores of 'model' and each baseline: x and w of every sequence to `evaluation-NAME-sequences.json`, and
    the estimates to `evaluation-NAME.json`. Returns both files."""
    keys, groups = next(x for c in scored["model"].values() for m in c.values() for x in m.values())[:2]
    plain = _each(lambda s: {"x": [_or_none(x) for x in s.x], "w": s.w}, scored, 4)
    sequences = {"keys": keys, "groups": groups, "scores": plain}
    together = _each(lambda s: {name: _or_none(x) for name, x in estimate(s)._asdict().items()}, scored, 4)
    written = [_sequences_file(folder, name), _file(folder, name)]
    for path, text in zip(written, (json.dumps(sequences), json.dumps(together, indent=1)), strict=True):
        with aside(path) as temporary:
            temporary.write_text(text + "\n")
    return written


def read_results(folder: Path, name: str) -> dict[str, Any]:
    """Read results as a map model or baseline -> task -> column -> metric -> {value, stderr, n, groups}, the form of
    `--json`."""
    results: dict[str, Any] = read_json(_file(folder, name), _AGAIN)
    return results


def is_evaluated(folder: Path, split: str) -> bool:
    """Return whether the run was scored on the split."""
    return _sequences_file(folder, split).exists()


def read_scores(folder: Path, split: str) -> dict[str, SplitScores]:
    """Return the scores of 'model' and of each baseline, without metrics of plugins that are not imported now.

    Raises:
        DriftworkError: the run has not been evaluated on `split`.
    """
    path = _sequences_file(folder, split)
    if not path.exists():
        again = typed("evaluate", [str(folder), f"split={split}"])
        raise DriftworkError(f"{folder}: not evaluated yet; run {again}")
    raw = read_json(path, _AGAIN)
    names = tuple(raw["keys"]), tuple(raw["groups"])
    known = _each(lambda found: {name: s for name, s in found.items() if name in METRICS}, raw["scores"], 3)
    return _each(lambda s: Scores(*names, tuple(map(_or_nan, s["x"])), tuple(s["w"])), known, 4)


def show(results: dict[str, Any], title: str) -> None:
    """Print a table with a column per contender and a row per task, metric and rate; each figure has its standard
    error.

    A figure that is worse than that of the last observed frame is marked.
    """
    found = _each(lambda x: Estimate(_or_nan(x["value"]), _or_nan(x["stderr"]), x["n"], x["groups"]), results, 4)
    rows = []
    for task, columns in next(iter(found.values())).items():
        label = task
        for metric in next(iter(columns.values())):
            for column in columns:
                entries = {name: who.get(task, {}).get(column, {}).get(metric) for name, who in found.items()}
                cells = [tables.Cell(x, _mark(x, entries.get("persistence"), metric)) for x in entries.values()]
                rows.append(tables.Row((label, METRICS[metric].label, _column(task, column)), cells))
                label = ""
    caption = "± standard error over groups of sequences; ▼ worse than copying the last observed frame"
    tables.show(tables.Table(title, ["", "score", "", *found], rows, caption))


def _column(task: str, column: str) -> str:
    return f"{column} frames" if task == "forecast" else f"{column} % observed"


def _mark(x: Estimate | None, rival: Estimate | None, metric: str) -> str:
    if x is None or rival is None:
        return ""
    sign = METRICS[metric].sign
    return " ▼" if sign * x.value < sign * rival.value else ""


def _each(apply: Callable[[Any], Any], nested: Any, depth: int) -> Any:
    """Apply a function to the values `depth` keys deep."""
    return {k: _each(apply, x, depth - 1) for k, x in nested.items()} if depth else apply(nested)


def _file(folder: Path, name: str) -> Path:
    return folder / f"evaluation-{name}.json"


def _sequences_file(folder: Path, name: str) -> Path:
    return folder / f"evaluation-{name}-sequences.json"


def _or_none(x: float) -> float | None:
    return x if math.isfinite(x) else None  # JSON has no NaN


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
