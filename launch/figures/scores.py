"""Scores against a varied setting: a line per model, with one standard error to either side."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from launch.figures import style
from launch.scoring.estimates import Estimate

LOOKS = list(
    zip(
        (style.INK, "#E69F00", style.BLUE, style.VERMILLION, "#009E73", "#CC79A7", "#56B4E9", style.GREY),
        ("o", "s", "^", "D", "v", "P", "X", "*"),
        strict=True,
    )
)
"""Okabe and Ito's colours, each with a marker for prints in grey."""


class Panel(NamedTuple):
    title: str
    label: str
    """Label of the vertical axis."""
    lines: dict[str, list[tuple[float, Estimate]]]
    """Points (x, score) of each line, by name."""


@rc_context(style.STYLE)
def lines(path: Path, panels: Sequence[Sequence[Panel]], xlabel: str, doubling: bool = False) -> list[Path]:
    """Draw rows of panels; a name has the same colour in all of them.

    Args:
        doubling: whether the x axis is logarithmic, with base 2.
    """
    figure = style.page(max(4.5, 0.6 + 2.9 * len(panels[0])), 0.9 + 2.4 * len(panels), "")  # a paper has captions
    alike = all(len({panel.label for panel in row}) == 1 for row in panels)
    axes = figure.subplots(len(panels), len(panels[0]), squeeze=False, sharex=True, sharey="row" if alike else False)
    names = list(dict.fromkeys(name for row in panels for panel in row for name in panel.lines))
    looks = dict(zip(names, cycle(LOOKS), strict=False))
    ticks = sorted({x for row in panels for panel in row for line in panel.lines.values() for x, _ in line})
    for row, drawn in zip(axes, panels, strict=True):
        for axis, panel in zip(row, drawn, strict=True):
            _draw(axis, panel, looks, ticks, doubling)
            if axis is row[0] or not alike:
                axis.set_ylabel(panel.label)
    for axis, panel in zip(axes[0], panels[0], strict=True):
        axis.set_title(panel.title, loc="left")
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    handles = {
        name: handle for axis in axes.flat for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    columns = min(len(names), 1 + len(panels[0]))
    figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=columns, frameon=False)
    return style.save(figure, path)


def _draw(axis: Axes, panel: Panel, looks: dict[str, tuple[str, str]], ticks: list[float], doubling: bool) -> None:
    for name, points in panel.lines.items():
        colour, marker = looks[name]
        at, estimates = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        axis.errorbar(
            at, [x.value for x in estimates], [x.stderr for x in estimates], color=colour, marker=marker,
            markersize=4, linewidth=1.3, elinewidth=0.8, capsize=2, label=name,
        )  # fmt: skip
    if doubling:
        axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(ticks, nbins=8))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.5)
