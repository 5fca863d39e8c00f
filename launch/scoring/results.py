"""Evaluation results: as files, for a tracker, and as a table in the terminal."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driftwork.errors import DriftworkError
from driftwork.files import aside
from launch.scoring import tables
from launch.scoring.estimates import Estimate, Scores, estimate
from launch.scoring.metrics import METRICS
from launch.scoring.scores import Scored

Estimates = dict[str, dict[str, dict[str, Estimate]]]
"""task -> rate in percent, or horizon in frames -> metric -> what all sequences say"""


def merge(into: Scored, more: Scored) -> None:
    """Add the columns of `more`."""
    for task, columns in more.items():
        into.setdefault(task, {}).update(columns)


def concatenated(parts: list[Scored]) -> Scored:
    """Put scores of different sequences together, sorted by key as those of one split are."""
    together: Scored = {}
    for task, columns in parts[0].items():
        for column, metrics in columns.items():
            for metric in metrics:
                if any(metric not in part[task][column] for part in parts):
                    continue  # evaluated before or after the metric was scored
                rows = sorted(row for part in parts for row in zip(*part[task][column][metric], strict=True))
                together.setdefault(task, {}).setdefault(column, {})[metric] = Scores(*zip(*rows, strict=True))
    return together


def estimates(scored: Scored) -> Estimates:
    return _each(estimate, scored, 3)


def values(found: Estimates) -> dict[str, float]:
    """Under a tracker's names, TASK_COLUMN_METRIC: what differs comes first, for a dashboard cuts names."""
    return {
        f"{task}_{column}_{metric}": x.value
        for task, columns in found.items()
        for column, metrics in columns.items()
        for metric, x in metrics.items()
        if math.isfinite(x.value)
    }


def write_results(folder: Path, name: str, scored: dict[str, Scored]) -> list[Path]:
    """Write what 'model' and each baseline scored: `evaluation-NAME-sequences.json` has x and w of every sequence,
    `evaluation-NAME.json` what they say together. Returns both."""
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
    """who -> task -> column -> metric -> {value, stderr, n, groups}, as `--json` prints it."""
    results: dict[str, Any] = json.loads(_file(folder, name).read_text())
    return results


def is_evaluated(folder: Path, split: str) -> bool:
    """Return whether the run was scored on the split."""
    return _sequences_file(folder, split).exists()


def read_scores(folder: Path, split: str) -> dict[str, Scored]:
    """What 'model' and each baseline scored, but for metrics of plugins that are not imported now. Raises
    `DriftworkError` when the run has not been evaluated on `split`."""
    path = _sequences_file(folder, split)
    if not path.exists():
        raise DriftworkError(f"{folder}: not evaluated yet; driftwork evaluate {folder} split={split}")
    raw = json.loads(path.read_text())
    names = tuple(raw["keys"]), tuple(raw["groups"])
    known = _each(lambda found: {name: s for name, s in found.items() if name in METRICS}, raw["scores"], 3)
    return _each(lambda s: Scores(*names, tuple(map(_or_nan, s["x"])), tuple(s["w"])), known, 4)


def show(results: dict[str, Any], title: str) -> None:
    """One column a contender, one row a task, metric and rate, each figure with its standard error.

    Where a contender does worse than copying the last observed frame, its figure carries a mark that says so.
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
    return f"{column} frames" if task == "forecast" else f"{column} % seen"


def _mark(x: Estimate | None, rival: Estimate | None, metric: str) -> str:
    if x is None or rival is None:
        return ""
    sign = METRICS[metric].sign
    return " ▼" if sign * x.value < sign * rival.value else ""


def _each(apply: Callable[[Any], Any], nested: Any, depth: int) -> Any:
    """Apply to what lies `depth` keys deep."""
    return {k: _each(apply, x, depth - 1) for k, x in nested.items()} if depth else apply(nested)


def _file(folder: Path, name: str) -> Path:
    return folder / f"evaluation-{name}.json"


def _sequences_file(folder: Path, name: str) -> Path:
    return folder / f"evaluation-{name}-sequences.json"


def _or_none(x: float) -> float | None:
    return x if math.isfinite(x) else None  # JSON has no NaN


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
