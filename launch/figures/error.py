"""The error of forecasts against their horizon."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from launch.figures import style

_LINES = ((style.BLUE, "-"), (style.VERMILLION, "--"), (style.GREY, "-"))


@rc_context(style.STYLE)
def over_time(path: Path, errors: Mapping[str, np.ndarray], given: int, title: str) -> list[Path]:
    """Draw the mean over sequences of the squared error, with a band of one standard error to either side.

    Args:
        errors: squared errors `[N, T]` of up to three kinds of forecast, for N sequences and the T frames after the
            `given` ones; NaN for a missing frame.
    """
    figure = style.page(6.4, 3.8, f"{title}, {_count(next(iter(errors.values())))}")
    panel = figure.subplots()
    for (name, error), (colour, dashes) in zip(errors.items(), _LINES, strict=False):
        mean, stderr = _estimate(error)
        frames = np.arange(1, len(mean) + 1)
        panel.plot(frames, mean, dashes, color=colour, linewidth=1.4, label=name)
        panel.fill_between(frames, mean - stderr, mean + stderr, color=colour, alpha=0.18, linewidth=0)
    panel.set_xlim(1, len(frames))
    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel(f"frames after the {given} that were given")
    panel.set_ylabel("squared error, mean over channels")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return style.save(figure, path)


def _count(error: np.ndarray) -> str:
    """Return the number of sequences, as a range if some end early or miss frames, which can make the mean jump."""
    counts = np.isfinite(error).sum(0)
    few, many = counts.min(), counts.max()
    return f"{few if few == many else f'{few} to {many}'} sequence{'s' if many > 1 else ''}"


def _estimate(error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over sequences of each frame and its standard error; NaN for too few sequences."""
    count = np.isfinite(error).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(error, axis=0) / count
        variance = np.nansum((error - mean) ** 2, axis=0) / np.where(count > 1, count - 1, np.nan)
        return mean, np.sqrt(variance / count)
