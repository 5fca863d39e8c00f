"""Scores of several models as the papers print them: a row a model, a column a task and rate; and what tells each from
one of them, sequence by sequence."""

import math
from typing import NamedTuple

from launch.scoring.estimates import Estimate, Scores, difference, over_seeds
from launch.scoring.metrics import METRICS
from launch.scoring.scores import Scored
from launch.scoring.tables import Cell, Row, Table, figure

_HEADINGS = {"density": "NLL {} %", "prediction": "pred. {} %", "interpolation": "interp. {} %", "forecast": "MSE {}"}


class Column(NamedTuple):
    task: str
    name: str
    """Rate in percent, or horizon in frames."""
    metric: str

    def of(self, scored: Scored) -> Scores | None:
        return scored.get(self.task, {}).get(self.name, {}).get(self.metric)

    @property
    def sign(self) -> int:
        """1 where more is better, otherwise -1."""
        return METRICS[self.metric].sign


Rows = dict[str, list[Scored]]
"""Label -> what each run of one model scored; runs differ in the seed."""


def columns_of(scored: list[Scored]) -> list[Column]:
    """Each task at each rate or horizon, by its first metric, the one that the papers print."""
    columns = []
    for task in _HEADINGS:
        metrics = {name: next(iter(scores)) for table in scored for name, scores in table.get(task, {}).items()}
        columns += [Column(task, name, metrics[name]) for name in sorted(metrics, key=float)]
    return columns


def figures(title: str, rows: Rows) -> Table:
    """The figures with their standard errors, the best of each column in bold."""
    columns = columns_of([table for runs in rows.values() for table in runs])
    found = {label: [_mean(runs, column) for column in columns] for label, runs in rows.items()}
    best = [
        max((x for x in estimates if x and not math.isnan(x.value)), key=lambda x: column.sign * x.value, default=None)
        for column, estimates in zip(columns, zip(*found.values(), strict=True), strict=True)
    ]
    printed = [
        Row((label,), [Cell(x, best=_as_good(x, top)) for x, top in zip(estimates, best, strict=True)])
        for label, estimates in found.items()
    ]
    most = max((x for estimates in found.values() for x in estimates if x), key=lambda x: x.n)
    units = "; ".join(dict.fromkeys(METRICS[column.metric].caption for column in columns))
    caption = f"{units}. ± one standard error; {most.n} sequences in {most.groups} groups. Bold: best."
    return Table(title, _headings(columns), printed, caption)


def _as_good(x: Estimate | None, best: Estimate | None) -> bool:
    """Whether a reader sees no difference: both are printed with the same digits."""
    return x is not None and best is not None and figure(x).partition("±")[0] == figure(best).partition("±")[0]


def differences(rows: Rows, reference: str) -> Table:
    """Each row minus that of `reference`, paired by sequence."""
    columns = columns_of(rows[reference])
    printed = [
        Row((label,), [_difference(runs, rows[reference], column) for column in columns])
        for label, runs in rows.items()
        if label != reference
    ]
    caption = "Paired by sequence. In brackets, in standard errors: ▲ better, ▼ worse by more than two."
    return Table(f"Difference to {reference}", _headings(columns), printed, caption)


def _headings(columns: list[Column]) -> list[str]:
    return ["", *(_HEADINGS[column.task].format(column.name) for column in columns)]


def _of(runs: list[Scored], column: Column) -> list[Scores]:
    """Of every run, or of none."""
    found = [scores for scores in map(column.of, runs) if scores is not None]
    return found if len(found) == len(runs) else []


def _mean(runs: list[Scored], column: Column) -> Estimate | None:
    found = _of(runs, column)
    return over_seeds(found) if found else None


def _difference(runs: list[Scored], reference: list[Scored], column: Column) -> Cell:
    ours, theirs = _of(runs, column), _of(reference, column)
    if not ours or not theirs:
        return Cell()
    x = difference(ours, theirs)
    if not x.stderr > 0:
        return Cell(x)
    ratio = x.value / x.stderr
    sign = "▲" if column.sign * ratio > 2 else "▼" if column.sign * ratio < -2 else ""
    return Cell(x, f"\n({ratio:.1f}{sign})")
