"""Calibration curves: observed frequencies against predicted probabilities, with one standard error to either side."""

import math
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes

from launch.figures import style
from launch.figures.scores import LOOKS
from launch.scoring.calibration import Curves, Point


@rc_context(style.STYLE)
def reliability(path: Path, curves: Curves, *, intervals: bool, title: str) -> list[Path]:
    """Draw a panel for each task with a line for each rate or horizon; the diagonal is perfect calibration. Without
    curves no file is written.

    Args:
        intervals: whether points are levels of central intervals, not bins of probabilities. The area of a bin's point
            is the share of the scored values that are in it.
    """
    if not curves:
        return []
    figure = style.page(0.6 + 3.4 * len(curves), 4.0, title)
    axes = figure.subplots(1, len(curves), squeeze=False, sharex=True, sharey=True)[0]
    for panel, (task, columns) in zip(axes, curves.items(), strict=True):
        panel.plot([0, 100], [0, 100], color=style.GREY, linewidth=0.8, linestyle="--", zorder=0)
        for (column, points), (colour, marker) in zip(columns.items(), LOOKS, strict=False):
            unit = "frames" if task == "forecast" else "% observed"
            sizes = [18.0 if intervals else 6 + 60 * point.share for point in points]
            _line(panel, points, sizes, f"{column} {unit}", colour, marker)
        panel.set_title(task, loc="left")
        panel.set(xlim=(-3, 103), ylim=(-3, 103))
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("central interval [%]" if intervals else "predicted probability [%]")
        panel.legend(frameon=False, loc="upper left")
    axes[0].set_ylabel("values inside [%]" if intervals else "share of ones [%]")
    return style.save(figure, path)


def _line(panel: Axes, points: list[Point], sizes: list[float], label: str, colour: str, marker: str) -> None:
    x, y = [point.nominal for point in points], [point.found.value for point in points]
    errors = [0.0 if math.isnan(point.found.stderr) else point.found.stderr for point in points]
    panel.errorbar(x, y, errors, color=colour, linewidth=1.2, elinewidth=0.8, capsize=2, label=label)
    panel.scatter(x, y, sizes, color=colour, marker=marker, zorder=3)
