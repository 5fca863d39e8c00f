"""Tables of several models in the papers' form, a row per model and a column per task and rate, and their paired
differences by sequence."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from launch.scoring.estimates import Estimate, Scores, difference, over_seeds
from launch.scoring.metrics import METRICS
from launch.scoring.scores import SplitScores
from launch.scoring.tables import Cell, Row, Table, figure

_HEADINGS = {"density": "NLL {} %", "prediction": "pred. {} %", "interpolation": "interp. {} %", "forecast": "MSE {}"}
_HEADINGS_BESIDE = {**_HEADINGS, "forecast": "forecast {}"}

_PAIRED = "Paired by sequence. In brackets: the difference in standard errors; ▲ better, ▼ worse, by more than two."


class Column(NamedTuple):
    task: str
    name: str
    """Rate in percent, or horizon in frames."""
    metric: str

    def of(self, scored: SplitScores) -> Scores | None:
        return scored.get(self.task, {}).get(self.name, {}).get(self.metric)

    @property
    def sign(self) -> int:
        """1 if more is better, -1 if less is better, 0 if neither is."""
        return METRICS[self.metric].sign


Rows = dict[str, list[SplitScores]]
"""Map from labels to the scores of each run of one model; runs differ in the seed."""


def columns_of(scored: list[SplitScores]) -> list[Column]:
    """Return each task at each rate or horizon, with the first metric that all rows with this task have. Runs that were
    evaluated before a metric existed are compared by one that they share."""
    columns = []
    for task in _HEADINGS:
        found = [metrics for table in scored for metrics in table.get(task, {}).values()]
        names = {name for table in scored for name in table.get(task, {})}
        for first in found[:1]:
            metric = next((name for name in first if all(name in metrics for metrics in found)), next(iter(first)))
            columns += [Column(task, name, metric) for name in sorted(names, key=float)]
    return columns


def figures(title: str, rows: Rows) -> Table:
    """Return the table of scores with their standard errors, the best of each column in bold."""
    columns = _columns(rows)
    printed = [Row((label,), cells) for label, cells in _cells(rows, columns).items()]
    most = max((x.estimate for row in printed for x in row.cells if x.estimate), key=lambda x: x.n)
    units = "; ".join(dict.fromkeys(METRICS[column.metric].caption for column in columns))
    caption = f"{units}. ± one standard error; {most.n} sequences in {most.groups} groups. Bold: best."
    return Table(title, _headings(columns), printed, caption)


def beside(title: str, rows: Rows, reference: str = "") -> Table | None:
    """Return a table of the metrics that have no column in `figures`, a part for each: the scores with the best in
    bold, or the differences to a `reference`. None if there is no such metric."""
    columns = [column for column in _columns(rows) if column.task != "density"]
    printed: list[Row] = []
    for metric, about in METRICS.items():
        if about.beside and metric not in {column.metric for column in columns}:
            lines = _lines(rows, [column._replace(metric=metric) for column in columns], reference)
            for i, (label, cells) in enumerate(lines.items()):
                printed.append(Row(("" if i else about.label, label), cells, rule=i == 0 and len(printed) > 0))
    if not printed:
        return None
    headings = ["", "", *(_HEADINGS_BESIDE[column.task].format(column.name) for column in columns)]
    return Table(title, headings, printed, _PAIRED if reference else "± one standard error. Bold: best.")


def _lines(rows: Rows, columns: list[Column], reference: str) -> dict[str, list[Cell]]:
    """Map labels to cells, for rows that have the metric of the columns."""
    have = {label: runs for label, runs in rows.items() if any(_of(runs, column) for column in columns)}
    if reference:
        others = {label: runs for label, runs in have.items() if label != reference and reference in have}
        return {label: [_difference(runs, have[reference], c) for c in columns] for label, runs in others.items()}
    return _cells(have, columns)


def _cells(rows: Rows, columns: list[Column]) -> dict[str, list[Cell]]:
    """Map labels to scores, the best of each column in bold."""
    found = {label: [_mean(runs, column) for column in columns] for label, runs in rows.items()}
    best = [_best(column, [line[i] for line in found.values()]) for i, column in enumerate(columns)]
    return {
        label: [Cell(x, best=_as_good(x, top)) for x, top in zip(estimates, best, strict=True)]
        for label, estimates in found.items()
    }


def _columns(rows: Rows) -> list[Column]:
    return columns_of([table for runs in rows.values() for table in runs])


def _best(column: Column, estimates: Iterable[Estimate | None]) -> Estimate | None:
    known = [x for x in estimates if x and not math.isnan(x.value)] if column.sign else []
    return max(known, key=lambda x: column.sign * x.value, default=None)


def _as_good(x: Estimate | None, best: Estimate | None) -> bool:
    """Return whether both estimates are printed with the same digits."""
    return x is not None and best is not None and figure(x).partition("±")[0] == figure(best).partition("±")[0]


def differences(rows: Rows, reference: str) -> Table:
    """Return the table of each row minus that of `reference`, paired by sequence."""
    columns = [column for column in _columns(rows) if _of(rows[reference], column)]
    printed = [
        Row((label,), [_difference(runs, rows[reference], column) for column in columns])
        for label, runs in rows.items()
        if label != reference
    ]
    return Table(f"Difference to {reference}", _headings(columns), printed, _PAIRED)


def _headings(columns: list[Column]) -> list[str]:
    return ["", *(_HEADINGS[column.task].format(column.name) for column in columns)]


def _of(runs: list[SplitScores], column: Column) -> list[Scores]:
    """Return the scores of all runs in a column; empty if one of them has none."""
    found = [scores for scores in map(column.of, runs) if scores is not None]
    return found if len(found) == len(runs) else []


def _mean(runs: list[SplitScores], column: Column) -> Estimate | None:
    found = _of(runs, column)
    return over_seeds(found) if found else None


def _difference(runs: list[SplitScores], reference: list[SplitScores], column: Column) -> Cell:
    ours, theirs = _of(runs, column), _of(reference, column)
    if not ours or not theirs:
        return Cell()
    x = difference(ours, theirs)
    if not x.stderr > 0:
        return Cell(x)
    ratio = x.value / x.stderr
    sign = "▲" if column.sign * ratio > 2 else "▼" if column.sign * ratio < -2 else ""
    return Cell(x, f"\n({ratio:.1f}{sign})")
