"""The figure of `impute` and `forecast`: the first series of a table."""

from collections.abc import Sequence
from pathlib import Path

from launch.figures import bands
from launch.prediction.answers import Frames
from launch.prediction.panels import labels, panel
from pipeline.sequence import DataSpec

_CHANNELS = 4
"""Maximum number of channels in a figure."""


def write(path: Path, sequences: Sequence[Frames], spec: DataSpec, title: str) -> None:
    """Draw the first series and channels to a file."""
    assert spec.table is not None, "the data are not a table"
    names = labels(spec.table)[:_CHANNELS]
    rows = [[panel(frames, channel, name) for channel, name in enumerate(names)] for frames in sequences]
    bands.write(path, rows, title)
