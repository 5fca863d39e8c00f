"""The figure beside answers: the first series of a table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from launch.figures import bands
from launch.figures.bands import Panel
from launch.prediction.answers import Frames
from pipeline.sequence import DataSpec

SERIES = 3
"""Most series of a figure."""
_CHANNELS = 4
"""Most channels of a figure."""


def write(path: Path, sequences: Sequence[Frames], spec: DataSpec, title: str) -> None:
    """Draw the first series and channels to a PNG file."""
    assert spec.table is not None, "the data are no table"
    units = spec.table.units or ("",) * spec.dim
    names = [f"{name} ({unit})" if unit else name for name, unit in zip(spec.table.channels, units, strict=True)]
    rows = [[_panel(frames, n, name) for n, name in enumerate(names[:_CHANNELS])] for frames in sequences[:SERIES]]
    bands.write(path, rows, title)


def _panel(frames: Frames, channel: int, name: str) -> Panel:
    mean, *others = (values[:, channel] for values in frames.answers.values())
    low, high = (others[1], others[-1]) if len(others) > 2 else (mean, mean)
    observed = np.where(frames.observed[:, channel], frames.truth[:, channel], np.float32(np.nan))
    series = frames.key[:-18]  # without hash and number
    return Panel(series, name, frames.times, observed, mean, low, high)
