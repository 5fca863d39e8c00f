"""Draws from the posterior of each trial: their paths in latent space, and some channels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from launch.figures import style

_TIME = "viridis"


class Trial(NamedTuple):
    """One row of the figure: S draws of T frames."""

    name: str
    latent: np.ndarray
    """[S, T, 2] latent paths in a plane."""
    truth: np.ndarray
    """[T, C] true values of the channels."""
    draws: np.ndarray
    """[S, T, C] drawn values of the channels."""


@rc_context(style.STYLE)
def draws(path: Path, trials: Sequence[Trial], channels: Sequence[str], given: int, title: str) -> list[Path]:
    """Draw a row per trial: its latent paths in a plane that all trials share, then each of the C channels."""
    count = len(trials[0].latent)
    figure = style.page(11, 1.0 + 1.75 * len(trials), f"{title}, {count} draws per trial")
    columns = 1 + len(channels)
    axes = figure.subplots(len(trials), columns, squeeze=False, width_ratios=[1.15] + [1.5] * len(channels))
    for c in range(1, columns):
        for panel in axes[1:, c]:
            panel.sharex(axes[0, 1])
            panel.sharey(axes[0, c])
    for row, trial in zip(axes, trials, strict=True):
        _plane(row[0], trial, trials)
        row[0].set_ylabel(trial.name, fontsize=10)
        for c, panel in enumerate(row[1:]):
            _channel(panel, trial, c, given)
    for panel in axes[:-1].flat:
        panel.tick_params(labelbottom=False)
    for panel, name in zip(axes[0], ("latent paths", *(f"{name} [°]" for name in channels)), strict=True):
        panel.set_title(name, loc="left")
    axes[-1, 0].set_xlabel("principal components")
    for panel in axes[-1, 1:]:
        panel.set_xlabel("frame")
    handles = [
        Line2D([], [], color=style.INK, linewidth=1.2, label="truth"),
        Line2D([], [], color=style.BLUE, linewidth=0.6, alpha=0.4, label="draw"),
        Line2D([], [], color=style.BLUE, linewidth=1.4, label="mean of the draws"),
        Line2D([], [], color=style.ORANGE, linewidth=3, label=f"first {given} frames, given"),
        Line2D(
            [],
            [],
            color=style.INK,
            marker="o",
            markersize=3,
            linestyle="none",
            label="start of a latent path, dark to light with time",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return style.save(figure, path)


def _plane(panel: Axes, trial: Trial, trials: Sequence[Trial]) -> None:
    """Draw paths that go from dark to light with time, over the range of all trials."""
    everything = np.concatenate([each.latent.reshape(-1, 2) for each in trials])
    low, high = everything.min(0), everything.max(0)
    air = 0.05 * (high - low)
    panel.set_xlim(low[0] - air[0], high[0] + air[0])
    panel.set_ylim(low[1] - air[1], high[1] + air[1])
    S, T, _ = trial.latent.shape
    pieces = np.stack([trial.latent[:, :-1], trial.latent[:, 1:]], 2).reshape(-1, 2, 2)
    time = np.tile(np.arange(T - 1), S)
    # Thousands of segments are stored as one picture in the PDF, not as paths.
    lines = LineCollection(list(pieces), array=time, cmap=_TIME, linewidths=0.5, alpha=0.5, rasterized=True)
    panel.add_collection(lines)
    panel.plot(*trial.latent[:, 0].T, ".", color=style.INK, markersize=3, zorder=3)
    panel.set_xticks([])
    panel.set_yticks([])


def _channel(panel: Axes, trial: Trial, c: int, given: int) -> None:
    frames = np.arange(1, len(trial.truth) + 1)
    panel.axvspan(0, given + 0.5, color=style.ORANGE, linewidth=0)
    panel.plot(frames, trial.draws[:, :, c].T, color=style.BLUE, linewidth=0.4, alpha=0.2)
    panel.plot(frames, trial.truth[:, c], color=style.INK, linewidth=1.2)
    panel.plot(frames, trial.draws[:, :, c].mean(0), color=style.BLUE, linewidth=1.4)
    panel.margins(x=0)
    panel.spines[["top", "right"]].set_visible(False)
