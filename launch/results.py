"""Evaluation results as a file and as a table in the terminal."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from launch import scores
from models.errors import DriftworkError
from pipeline.files import aside

Plain = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""task -> rate in percent, or horizon in frames -> metric -> {value, stderr, n}"""

Results = dict[str, Plain]
"""Of 'model' and of each baseline."""

_LABELS = {
    "nll_nats_per_frame": "NLL, nats a frame",
    "nll_nats_per_dimension": "NLL, nats a dimension",
    "nll_importance_weighted_nats_per_frame": "NLL, IW bound",
    "nll_importance_weighted_nats_per_dimension": "NLL, IW bound",
    "kl_nats_per_frame": "of it KL",
    "kl_nats_per_dimension": "of it KL",
    "accuracy_percent": "accuracy, %",
    "rmse": "RMSE",
    "mse": "MSE",
    "mse_of_mean_path": "MSE of the mean path",
}


def merge(into: Plain, table: scores.Table) -> None:
    """Add a table's columns; what too few sequences cannot give is null."""
    for task, columns in table.items():
        for column, metrics in columns.items():
            into.setdefault(task, {})[column] = {
                name: {"value": _or_none(x.value), "stderr": _or_none(x.stderr), "n": x.n}
                for name, x in metrics.items()
            }


def _or_none(x: float) -> float | None:
    return None if math.isnan(x) else x


def values(table: Plain) -> dict[str, float]:
    """Under a tracker's names, TASK_COLUMN_METRIC: what differs comes first, for a dashboard cuts names."""
    return {
        f"{task}_{column}_{metric}": x["value"]
        for task, columns in table.items()
        for column, metrics in columns.items()
        for metric, x in metrics.items()
        if x["value"] is not None
    }


def write_results(folder: Path, split: str, results: Results) -> Path:
    path = folder / f"evaluation-{split}.json"
    with aside(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    return path


def read_results(folder: Path, split: str) -> Results:
    """Raises `DriftworkError` when the run has not been evaluated on this split."""
    path = folder / f"evaluation-{split}.json"
    if not path.exists():
        raise DriftworkError(f"{folder}: not evaluated yet; driftwork evaluate {folder} split={split}")
    results: Results = json.loads(path.read_text())
    return results


def show(results: Results, title: str, console: Console | None = None) -> None:
    """One column a contender, one row a task, metric and rate, each figure with its standard error.

    Where a contender does worse than copying the last observed frame, its figure carries a mark that says so.
    """
    caption = "± standard error over sequences; ▼ worse than copying the last observed frame"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=0, collapse_padding=True)
    for heading in ("", "score", ""):
        table.add_column(heading)
    for name in results:
        table.add_column(name, justify="right", no_wrap=True)
    copied = results.get("persistence", {})
    for task, rates in next(iter(results.values())).items():
        label = task
        for metric in next(iter(rates.values())):
            for rate in rates:
                cells = (_cell(scored, copied, task, metric, rate) for scored in results.values())
                table.add_row(label, _LABELS.get(metric, metric), _column(task, rate), *cells)
                label = ""
        table.add_section()
    (console or Console()).print(table)


def _column(task: str, column: str) -> str:
    return f"{column} frames" if task == "forecast" else f"{column} % seen"


def _cell(scored: Mapping[str, Any], copied: Mapping[str, Any], task: str, metric: str, rate: str) -> str:
    entry = scored.get(task, {}).get(rate, {}).get(metric)
    if entry is None or entry["value"] is None:
        return "–"
    value, stderr = entry["value"], entry["stderr"]
    text = f"{value:.2f}" if stderr is None else f"{value:.2f}±{stderr:.2f}"
    rival = copied.get(task, {}).get(rate, {}).get(metric)
    if rival is None or rival["value"] is None:
        return text
    worse = value < rival["value"] if metric == "accuracy_percent" else value > rival["value"]
    return f"{text}▼" if worse else text
