"""Mean and scale of each channel in float64, in one pass over merged pieces (Chan, Golub and LeVeque, 1979).

The order of merging affects the last bits of the result, so shards are merged in the order of the plan.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializerFunctionWrapHandler, model_serializer

from driftwork.config_base import Config
from pipeline.sequence import Sequence


class Stats(Config):
    """Mean and scale over the present frames of the train split."""

    frames: int
    """Number of frames that are present in the training split."""
    mean: tuple[float, ...]
    """Mean of each of the D channels, in units of the data."""
    scale: tuple[float, ...]
    """Standard deviation of each of the D channels, in units of the data. 0 for a channel that never changes."""
    observed: tuple[int, ...] | None = None
    """Number of values of each of the D channels in the training split, if masks are of entries. Null if they are of
    whole frames, since it is then `frames` for all channels."""
    static_mean: tuple[float, ...] | None = None
    """Mean of each static covariate over the training sequences that have it, in their units. Null if there are
    none."""
    static_scale: tuple[float, ...] | None = None
    """Standard deviation of each static covariate over the same sequences, in their units. Null if there are none."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields without those of tables that are null, so that older manifests keep their hash."""
        fields: dict[str, Any] = handler(self)
        of_tables = ("observed", "static_mean", "static_scale")
        return {name: x for name, x in fields.items() if x is not None or name not in of_tables}


class Moments(NamedTuple):
    frames: int
    mean: NDArray[np.float64]
    """[D] mean of each channel, in units of the values."""
    squares: NDArray[np.float64]
    """[D] sum of squared distances from the mean, in squared units of the values."""
    observed: NDArray[np.int64] | None = None
    """[D] number of values of each channel, if masks are of entries; None if it is `frames` for all channels."""
    static: "Moments | None" = None
    """Moments of the S static covariates over sequences; None if there are none."""

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        return cls(0, np.zeros(dim), np.zeros(dim))

    @classmethod
    def of_sequence(cls, sequence: Sequence) -> "Moments":
        """Return the moments of the present values, and of the static numbers if the sequence has any."""
        static = (sequence.about or {}).get("static")
        moments = cls.of(sequence.values, sequence.mask)
        if not static:
            return moments
        numbers = np.array([static], np.float64)  # None becomes NaN
        return moments._replace(static=cls._of_channels(numbers, np.isfinite(numbers)))

    @classmethod
    def of(cls, values: NDArray[np.generic], mask: NDArray[np.bool_]) -> "Moments":
        """Return the moments of the frames of `values` [T, D] at which `mask` [T] is True, or of the entries at which
        `mask` [T, D] is True."""
        if mask.ndim == 2:
            return cls._of_channels(values, mask)
        there = values[mask].astype(np.float64)
        if not len(there):
            return cls.empty(values.shape[1])
        mean = there.mean(axis=0)
        return cls(len(there), mean, np.square(there - mean).sum(axis=0))

    @classmethod
    def _of_channels(cls, values: NDArray[np.generic], mask: NDArray[np.bool_]) -> "Moments":
        observed = mask.sum(axis=0)
        there = np.where(mask, values.astype(np.float64), 0.0)
        mean = there.sum(axis=0) / np.maximum(observed, 1)
        squares = np.square(np.where(mask, there - mean, 0.0)).sum(axis=0)
        return cls(int(mask.any(axis=1).sum()), mean, squares, observed)

    def merge(self, other: "Moments") -> "Moments":
        if self.observed is not None or other.observed is not None:
            merged = self._merge_channels(other)
            if self.static is None or other.static is None:
                return merged._replace(static=self.static or other.static)
            return merged._replace(static=self.static._merge_channels(other.static))
        frames = self.frames + other.frames
        if frames == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            frames,
            self.mean + step * (other.frames / frames),
            self.squares + other.squares + np.square(step) * (self.frames * other.frames / frames),
        )

    def _merge_channels(self, other: "Moments") -> "Moments":
        ours, theirs = (0 if moments.observed is None else moments.observed for moments in (self, other))
        observed = np.asarray(ours + theirs, np.int64)
        share = theirs / np.maximum(observed, 1)
        step = other.mean - self.mean
        squares = self.squares + other.squares + np.square(step) * (ours * share)
        return Moments(self.frames + other.frames, self.mean + step * share, squares, observed)

    def stats(self) -> Stats:
        if self.observed is not None:
            scale = np.sqrt(self.squares / np.maximum(self.observed, 1))
            observed = tuple(self.observed.tolist())
            static = None if self.static is None else self.static.stats()
            return Stats(
                frames=self.frames, mean=tuple(self.mean.tolist()), scale=tuple(scale.tolist()), observed=observed,
                static_mean=static and static.mean, static_scale=static and static.scale,
            )  # fmt: skip
        scale = np.sqrt(self.squares / max(self.frames, 1))
        return Stats(frames=self.frames, mean=tuple(self.mean.tolist()), scale=tuple(scale.tolist()))
