"""Series of a table: observations, and a model's mean and interval between and after them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from driftwork.files import aside
from launch.figures import style
from launch.figures.style import BLUE, INK, VERMILLION

_UNITS = ((2 * 86400.0, 86400.0, "days"), (2 * 3600.0, 3600.0, "hours"), (0.0, 1.0, "seconds"))

FORMATS = (".png", ".pdf", ".svg")
"""Endings of the files that `write` draws."""


class Panel(NamedTuple):
    """A channel of a series at T times."""

    series: str
    channel: str
    times: NDArray[np.float64]
    """[T] times, in seconds since the first."""
    observed: NDArray[np.float32]
    """[T] observed values, NaN elsewhere."""
    mean: NDArray[np.float32]
    """[T] predicted mean, or probability of a 1."""
    low: NDArray[np.float32]
    """[T] lower end of the interval; the mean where there is none."""
    high: NDArray[np.float32]
    """[T] upper end of the interval; the mean where there is none."""
    held_out: NDArray[np.float32] | None = None
    """[T] values that the model did not observe, NaN elsewhere. None where they are unknown."""


@rc_context(style.STYLE)
def write(path: Path, rows: Sequence[Sequence[Panel]], title: str) -> None:
    """Draw the panels to a file, a row for each series. The file's ending is one of `FORMATS`."""
    figure = drawn(rows, title)
    with aside(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)


def drawn(rows: Sequence[Sequence[Panel]], title: str) -> Figure:
    """Return a figure with a row of panels for each series, under the style of the caller. Time is in the unit that
    suits the longest."""
    width, height = max(map(len, rows)), len(rows)
    longest = max(float(panel.times[-1]) for panels in rows for panel in panels)
    unit, name = next((unit, name) for least, unit, name in _UNITS if longest >= least)
    figure = style.page(1 + 3.2 * width, 0.8 + 1.8 * height, title)
    axes = figure.subplots(height, width, squeeze=False, sharex="row")
    for row, panels in zip(axes, rows, strict=True):
        for ax, panel in zip(row, panels, strict=True):
            times = panel.times / unit
            ax.fill_between(times, panel.low, panel.high, color=BLUE, alpha=0.2, linewidth=0)
            ax.plot(times, panel.mean, color=BLUE, linewidth=0.8)
            ax.plot(times, panel.observed, ".", color=INK, markersize=2.5)
            if panel.held_out is not None:
                ax.plot(times, panel.held_out, "o", color=VERMILLION, markersize=2.5, markerfacecolor="none")
            ax.set_title(f"{panel.series}: {panel.channel}", fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel(name)
    return figure
