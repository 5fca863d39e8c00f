"""Tables of figures with standard errors, for the terminal and as Markdown, CSV, LaTeX and HTML."""

import csv
import math
from html import escape
from io import StringIO
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from launch.scoring.estimates import Estimate

_LATEX = {
    "\\": r"\textbackslash{}", **{char: f"\\{char}" for char in "&%$#_{}"}, "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "±": r" $\pm$ ", "–": "--", "▲": r"$\uparrow$", "▼": r"$\downarrow$", "\n": " ",
}  # fmt: skip


class Cell(NamedTuple):
    estimate: Estimate | None = None
    mark: str = ""
    """Text after the figure; after a line break, on its own line if the format has lines."""
    best: bool = False
    quoted: str = ""
    """A published figure, as printed, instead of an estimate."""


class Row(NamedTuple):
    labels: tuple[str, ...]
    cells: list[Cell]
    rule: bool = False
    """Whether a line is drawn above the row."""


class Table(NamedTuple):
    title: str
    headings: list[str]
    """Headings of the labels, then of each column of cells."""
    rows: list[Row]
    caption: str


def figure(x: Estimate | None) -> str:
    """Format an estimate as `9.18±0.18`: the standard error with two digits, or with one if they are above 35, and the
    value to the same place."""
    if x is None or math.isnan(x.value):
        return "–"
    if not x.stderr > 0:  # unknown, or an exact 0
        return f"{x.value:z.2f}" if math.isnan(x.stderr) else f"{x.value:z.2f}±0.00"
    first = math.floor(math.log10(x.stderr))
    places = min(5, max(0, 1 - first if x.stderr < 3.6 * 10.0**first else -first))
    return f"{x.value:z.{places}f}±{x.stderr:.{places}f}"  # z: no -0.00


def show(table: Table) -> None:
    """Print the table with the best of a column in bold. It may be wider than the terminal, since figures are not
    cut."""
    title, caption = Text(table.title, "table.title"), Text(table.caption, "table.caption")
    drawn = RichTable(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    labels = len(table.rows[0].labels)
    for i, heading in enumerate(table.headings):
        drawn.add_column(Text(heading.replace(" ", "\n", 1)), justify="left" if i < labels else "right")
    for row in table.rows:
        if row.rule:
            drawn.add_section()
        drawn.add_row(*map(Text, row.labels), *(Text(_text(cell), "bold" if cell.best else "") for cell in row.cells))
    console = Console()
    needed = console.measure(drawn, options=console.options.update(width=10_000)).maximum
    Console(width=max(needed, console.width)).print(drawn)


def markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown, between its title and its caption."""
    lines = [f"**{table.title}**", "", _line(table.headings), _line(["---"] * len(table.headings))]
    for row in table.rows:
        texts = (_text(cell).replace("±", " ± ").replace("\n", " ") for cell in row.cells)
        bold = (f"**{text}**" if cell.best else text for text, cell in zip(texts, row.cells, strict=True))
        lines.append(_line([*row.labels, *bold]))
    return "\n".join([*lines, "", table.caption, ""])


def as_csv(table: Table) -> str:
    """Return the table as CSV: the labels, then each column's figure and standard error with all their digits."""
    sink = StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    labels = len(table.rows[0].labels)
    names = (name for heading in table.headings[labels:] for name in (heading, f"{heading}, standard error"))
    writer.writerow([*(heading or "model" for heading in table.headings[:labels]), *names])
    for row in table.rows:
        writer.writerow([*row.labels, *(number for cell in row.cells for number in _numbers(cell))])
    return sink.getvalue()


def latex(table: Table, name: str) -> str:
    r"""Return the table as a LaTeX `table` with booktabs' rules; `\ref{tab:NAME}` refers to it."""
    labels = len(table.rows[0].labels)
    lines = [
        "% \\usepackage{booktabs}", r"\begin{table}", r"\centering",
        rf"\caption{{{_tex(f'{table.title}. {table.caption}')}}}", rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(table.headings) - labels)}}}", r"\toprule",
        _tex_line([_tex(heading) for heading in table.headings]), r"\midrule",
    ]  # fmt: skip
    for row in table.rows:
        texts = [rf"\textbf{{{_tex(_text(cell))}}}" if cell.best else _tex(_text(cell)) for cell in row.cells]
        lines += [r"\midrule"] * row.rule + [_tex_line([*map(_tex, row.labels), *texts])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def html(table: Table) -> str:
    """Return the table as a `<table>` with title and caption, which scrolls if the page is too narrow."""
    labels = len(table.rows[0].labels)
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in table.headings)
    lines = [
        f'<p class="title">{escape(table.title)}</p>',
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>',
    ]
    for row in table.rows:
        names = "".join(f"<td>{escape(label)}</td>" for label in row.labels[1:labels])
        texts = (escape(_text(cell)).replace("±", " ± ").replace("\n", "<br>") for cell in row.cells)
        cells = (
            f"<td>{f'<b>{text}</b>' if cell.best else text}</td>" for text, cell in zip(texts, row.cells, strict=True)
        )
        kind = ' class="rule"' if row.rule else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(row.labels[0])}</th>{names}{"".join(cells)}</tr>')
    return "\n".join([*lines, f'</tbody></table></div>\n<p class="caption">{escape(table.caption)}</p>'])


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _tex_line(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _numbers(cell: Cell) -> tuple[str, str]:
    if cell.quoted or cell.estimate is None:
        return cell.quoted, ""
    value, stderr = cell.estimate[:2]
    return "" if math.isnan(value) else repr(value), "" if math.isnan(stderr) else repr(stderr)


def _text(cell: Cell) -> str:
    return cell.quoted or figure(cell.estimate) + cell.mark
