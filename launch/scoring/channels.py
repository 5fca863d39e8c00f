"""Scores of the single channels of a table, in the units of the data: estimates, their file and a table."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.files import aside, read_json
from launch.scoring.estimates import Estimate, Scores, estimate
from launch.scoring.tables import Cell, Row, Table
from pipeline.table_spec import TableSpec

_PRINTED = 30
"""Number of channels up to which a table is printed."""


class ChannelScores(NamedTuple):
    """One metric of one run by sequence and channel, in the order of the keys."""

    keys: tuple[str, ...]
    groups: tuple[str, ...]
    x: NDArray[np.float64]
    """[N, D] sums of the metric over the scored entries."""
    w: NDArray[np.float64]
    """[N, D] numbers of scored entries."""

    def estimates(self) -> list[Estimate]:
        """Return the estimate for each channel, with its clustered error."""
        columns = zip(self.x.T.tolist(), self.w.T.tolist(), strict=True)
        return [estimate(Scores(self.keys, self.groups, tuple(x), tuple(w))) for x, w in columns]


OfChannels = dict[str, dict[str, dict[str, ChannelScores]]]
"""task -> rate in percent, or horizon in frames -> metric -> scores"""

Found = dict[str, dict[str, dict[str, dict[str, list[Estimate]]]]]
"""model or baseline -> task -> column -> metric -> estimate for each channel"""


def estimated(scored: dict[str, OfChannels]) -> Found:
    """Return the estimates of every contender, with the RMSE instead of the MSE."""
    return {
        who: {
            task: {column: dict(map(_named, metrics.items())) for column, metrics in columns.items()}
            for task, columns in tasks.items()
        }
        for who, tasks in scored.items()
    }


def _named(metric: tuple[str, ChannelScores]) -> tuple[str, list[Estimate]]:
    name, scores = metric
    found = scores.estimates()
    return ("rmse", list(map(_root, found))) if name == "mse" else (name, found)


def _root(x: Estimate) -> Estimate:
    """Return the root of an estimate, with the linearised error."""
    if not x.value > 0:
        return x._replace(value=x.value if math.isnan(x.value) else 0.0)
    root = math.sqrt(x.value)
    return x._replace(value=root, stderr=x.stderr / (2 * root))


def write(folder: Path, name: str, spec: TableSpec, found: Found) -> Path:
    """Write `evaluation-NAME-channels.json`: the unit of each channel (`units`), and `scores`: contender -> task ->
    column -> metric -> channel -> value, stderr, n, groups.
    """
    path = _file(folder, name)
    units = dict(zip(spec.channels, spec.units or ("",) * len(spec.channels), strict=True))
    plain = {
        who: {
            task: {column: _plain(metrics, spec) for column, metrics in columns.items()}
            for task, columns in tasks.items()
        }
        for who, tasks in found.items()
    }
    with aside(path) as temporary:
        temporary.write_text(json.dumps({"units": units, "scores": plain}, indent=1) + "\n", encoding="utf-8")
    return path


def _plain(metrics: dict[str, list[Estimate]], spec: TableSpec) -> dict[str, dict[str, dict[str, float | None]]]:
    return {
        metric: {
            channel: {key: y if math.isfinite(y) else None for key, y in x._asdict().items()}
            for channel, x in zip(spec.channels, estimates, strict=True)
        }
        for metric, estimates in metrics.items()
    }


def _file(folder: Path, name: str) -> Path:
    return folder / f"evaluation-{name}-channels.json"


def table(folder: Path, name: str, names: dict[str, str]) -> Table | None:
    """Return the RMSE of each channel from the file, a column for each contender; None without a file, or with too many
    channels to print.

    Args:
        names: label of each contender.
    """
    if not _file(folder, name).exists():
        return None
    file: dict[str, Any] = read_json(_file(folder, name), "evaluate the run again")
    units, found = file["units"], file["scores"]
    rows: list[Row] = []
    for task, columns in found["model"].items():
        for column in columns:
            label = f"{task} {column} {'frames' if task == 'forecast' else '%'}"
            for channel, unit in units.items():
                cells = [Cell(_rmse(found[who].get(task, {}).get(column, {}), channel)) for who in names]
                rows.append(Row((label, channel, unit), cells, rule=bool(label and rows)))
                label = ""
    if not rows or len(units) > _PRINTED:
        return None
    caption = f"In the units of the table. {_file(folder, name).name} has further scores."
    return Table("RMSE by channel", ["", "channel", "unit", *names.values()], rows, caption)


def _rmse(metrics: dict[str, Any], channel: str) -> Estimate | None:
    if "rmse" not in metrics:
        return None
    raw = metrics["rmse"][channel]
    return Estimate(_or_nan(raw["value"]), _or_nan(raw["stderr"]), raw["n"], raw["groups"])


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
