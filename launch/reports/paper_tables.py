"""The papers' tables for a group of runs, and the paired differences."""

from typing import NamedTuple

from launch.reports import published
from launch.reports.rows import Group, Kind
from launch.scoring import comparison, side_by_side
from launch.scoring.side_by_side import Rows, columns_of
from launch.scoring.tables import Cell, Row, Table

_FREE = {"persistence": "last observed frame", "nearest": "nearest observed frame", "linear": "straight lines"}
_BASELINES = ("GRU-ODE", "ODE-RNN", "Neural ODE")
"""Models with which the others are compared if there is one; otherwise they are compared with the first row."""


class Tabled(NamedTuple):
    name: str
    """Name of the files."""
    table: Table
    kinds: list[Kind]
    """Kinds of runs that the table shows."""


def of(group: Group, split: str) -> list[Tabled]:
    """Return table 1 of models that predict and interpolate, and table 2 of those that forecast. Each is followed by
    the differences, further scores, and, if a model was run with several settings, a table with all of them."""
    made = []
    for number, forecasts in enumerate((False, True), 1):
        name, title = f"table{number}", f"Table {number}. {group.data}, {split} split"
        chosen, everything = (
            [kind for kind in kinds if ("forecast" in kind.tables[0]) == forecasts]
            for kinds in (group.chosen, group.kinds)
        )
        if not chosen:
            continue
        free = _free(chosen)
        made.append(Tabled(name, _with_papers(_figures(title, chosen, free), chosen, group.dataset), chosen))
        rows = _rows(chosen) | free
        if len(rows) > 1:
            reference = next((label for label in _BASELINES if label in rows), next(iter(rows)))
            table = side_by_side.differences(rows, reference)
            table = table._replace(title=f"Table {number}, difference to {reference}")
            made.append(Tabled(f"{name}-differences", table, chosen))
        further = side_by_side.beside(f"Table {number}, further scores", rows)
        if further is not None:
            made.append(Tabled(f"{name}-further", further, chosen))
        if len(everything) > len(chosen):
            table = _figures(f"Table {number}, all settings", everything, {})
            best = f"{table.caption} Table {number} has each model's settings with the best validation score."
            made.append(Tabled(f"{name}-settings", table._replace(caption=best), everything))
    return made


def _rows(kinds: list[Kind]) -> Rows:
    return {kind.full_label: kind.tables for kind in kinds}


def _free(kinds: list[Kind]) -> Rows:
    """Return the trivial baselines with the same tasks as these kinds."""
    evaluated = [member.evaluated for kind in kinds for member in kind.members]
    return {_FREE.get(name, name): tables for name, tables in comparison.free(evaluated).items()}


def _figures(title: str, kinds: list[Kind], free: Rows) -> Table:
    """Return the table of scores, with a column for the number of seeds of each row."""
    table = side_by_side.figures(title, _rows(kinds) | free)
    seeds = {kind.full_label: str(len(kind.tables)) for kind in kinds}
    rows = [
        Row((row.labels[0], seeds.get(row.labels[0], "")), row.cells, rule=row.labels[0] == next(iter(free), None))
        for row in table.rows
    ]
    return table._replace(headings=["", "seeds", *table.headings[1:]], rows=rows)


def _with_papers(table: Table, kinds: list[Kind], dataset: str) -> Table:
    columns = columns_of([scored for kind in kinds for scored in kind.tables])
    rows, papers = list(table.rows), []
    for paper in published.of(dataset):
        quoted = {name: published.printed(figures, columns) for name, figures in paper.figures.items()}
        new = [
            Row((f"{name}, published", ""), [Cell(quoted=figure) for figure in figures])
            for name, figures in quoted.items()
            if any(figures)
        ]
        if new:
            rows += [new[0]._replace(rule=True), *new[1:]]
            papers.append(paper.paper)
    source = f" Published: {'; '.join(papers)}." if papers else ""
    return table._replace(rows=rows, caption=table.caption + source)
