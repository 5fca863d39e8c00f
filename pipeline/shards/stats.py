"""Mean and scale of each channel in float64, in one pass over pieces that are merged (Chan, Golub and LeVeque, 1979).

The order of merging affects the last bits of the result, so shards are merged in the order of the plan.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.config_base import Config


class Stats(Config):
    """Mean and scale over the present frames of the train split."""

    frames: int
    """Number of frames that are present in the training split."""
    mean: tuple[float, ...]
    """Mean of each of the D channels, in units of the data."""
    scale: tuple[float, ...]
    """Standard deviation of each of the D channels, in units of the data. 0 for a channel that never changes."""


class Moments(NamedTuple):
    frames: int
    mean: NDArray[np.float64]
    """[D] mean of each channel."""
    squares: NDArray[np.float64]
    """[D] sum of squared distances from the mean."""

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        return cls(0, np.zeros(dim), np.zeros(dim))

    @classmethod
    def of(cls, values: NDArray[np.generic], mask: NDArray[np.bool_]) -> "Moments":
        """Return the moments of the frames of `values` [T, D] where `mask` [T] is true."""
        there = values[mask].astype(np.float64)
        if not len(there):
            return cls.empty(values.shape[1])
        mean = there.mean(axis=0)
        return cls(len(there), mean, np.square(there - mean).sum(axis=0))

    def merge(self, other: "Moments") -> "Moments":
        frames = self.frames + other.frames
        if frames == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            frames,
            self.mean + step * (other.frames / frames),
            self.squares + other.squares + np.square(step) * (self.frames * other.frames / frames),
        )

    def stats(self) -> Stats:
        scale = np.sqrt(self.squares / max(self.frames, 1))
        return Stats(frames=self.frames, mean=tuple(self.mean.tolist()), scale=tuple(scale.tolist()))
