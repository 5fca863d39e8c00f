"""A table of figures with standard errors, for the terminal and as Markdown."""

import math
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from launch.estimates import Estimate


class Cell(NamedTuple):
    estimate: Estimate | None = None
    mark: str = ""
    """What follows the figure; after a line break, on a line of its own where there are lines."""
    best: bool = False


class Row(NamedTuple):
    labels: tuple[str, ...]
    cells: list[Cell]


class Table(NamedTuple):
    title: str
    headings: list[str]
    """Of the labels, then of each column of cells."""
    rows: list[Row]
    caption: str


def figure(x: Estimate | None) -> str:
    """As `9.18±0.18`: the standard error to two digits, or to one from 36 on, and the value to the same place."""
    if x is None or math.isnan(x.value):
        return "–"
    if not x.stderr > 0:  # unknown, or an exact 0
        return f"{x.value:.2f}" if math.isnan(x.stderr) else f"{x.value:.2f}±0.00"
    first = math.floor(math.log10(x.stderr))
    places = min(5, max(0, 1 - first if x.stderr < 3.6 * 10.0**first else -first))
    return f"{x.value:.{places}f}±{x.stderr:.{places}f}"


def show(table: Table) -> None:
    """Print it; the best of a column is bold. Wider than the terminal rather than with figures cut in two."""
    drawn = RichTable(title=table.title, caption=table.caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    labels = len(table.rows[0].labels)
    for i, heading in enumerate(table.headings):
        drawn.add_column(heading.replace(" ", "\n", 1), justify="left" if i < labels else "right")
    for row in table.rows:
        drawn.add_row(*row.labels, *(Text(_text(cell), "bold" if cell.best else "") for cell in row.cells))
    console = Console()
    needed = console.measure(drawn, options=console.options.update(width=10_000)).maximum
    Console(width=max(needed, console.width)).print(drawn)


def markdown(table: Table) -> str:
    """As a table of GitHub's Markdown, between its title and its caption."""
    lines = [f"**{table.title}**", "", _line(table.headings), _line(["---"] * len(table.headings))]
    for row in table.rows:
        texts = (_text(cell).replace("±", " ± ").replace("\n", " ") for cell in row.cells)
        bold = (f"**{text}**" if cell.best else text for text, cell in zip(texts, row.cells, strict=True))
        lines.append(_line([*row.labels, *bold]))
    return "\n".join([*lines, "", table.caption, ""])


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _text(cell: Cell) -> str:
    return figure(cell.estimate) + cell.mark
