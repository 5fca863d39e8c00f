"""Panels of a figure of a table's series, from a model's predictions."""

import numpy as np

from launch.figures.bands import Panel
from launch.prediction.answers import Frames
from pipeline.table_spec import TableSpec


def labels(table: TableSpec) -> list[str]:
    """Return the label of each channel, with its unit."""
    units = table.units or ("",) * len(table.channels)
    return [f"{name} ({unit})" if unit else name for name, unit in zip(table.channels, units, strict=True)]


def panel(frames: Frames, channel: int, name: str, label: str | None = None) -> Panel:
    """Return the panel of a channel, called `name`, with its band between the outer quantiles.

    Args:
        label: text before the name. None takes the series' own name.
    """
    mean, *others = (values[:, channel] for values in frames.answers.values())
    low, high = (others[1], others[-1]) if len(others) > 2 else (mean, mean)
    shown, truth = frames.observed[:, channel], frames.truth[:, channel]
    observed, held_out = (np.where(where, truth, np.float32(np.nan)) for where in (shown, ~shown))
    series = frames.key[:-18] or frames.key  # without hash and number
    return Panel(series if label is None else label, name, frames.times, observed, mean, low, high, held_out)
