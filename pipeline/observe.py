"""Observation patterns: the frames, or the entries of a table, that a model observes.

A training mask is a pure function of (run seed, epoch, sequence key): it does not depend on the rank, the batch or the
worker that reads the sequence. Masks of evaluation depend only on the key.
"""

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from driftwork.config_base import Config, build
from driftwork.errors import DriftworkError
from pipeline.sequence import DataSpec

Ratio = Annotated[float, Field(gt=0, le=1)]


class ObservationConfig(Config):
    pattern: Literal["random", "regular", "prefix", "entries", "block", "channels"]
    """Pattern of observed frames. `random` observes a fraction of the frames, drawn for each sequence, in training anew
    in each epoch. `regular` observes every n-th frame, n = 1 / ratio. `prefix` observes the beginning (`frames`,
    `seconds` or `fraction`) and a random fraction of the later frames. `block` leaves out one gap in time, at a place
    drawn as for `random`. In a table, a frame consists of its present entries; `entries` observes a random fraction
    of the entries themselves, and `channels` a random fraction of the channels, each as a whole."""
    ratios: tuple[Ratio, ...] = ()
    """Fractions that are observed: of the frames, of the entries, of the channels, or of the duration around a gap;
    after a prefix, of the later frames. Training draws one of them for each sequence and epoch; evaluation scores them
    one after another. An empty list after a prefix observes no later frames, and evaluation allows nothing else."""
    frames: int | None = Field(None, ge=1)
    """Number of frames of a prefix. Null for the other patterns, or where `seconds` or `fraction` gives its length."""
    seconds: float | None = Field(None, gt=0)
    """Length of a prefix in seconds since the first frame, which suits irregular series. A frame exactly at the end of
    this length is not in the prefix. Null where `frames` or `fraction` gives the length."""
    fraction: float | None = Field(None, gt=0, lt=1)
    """Length of a prefix as a fraction of the sequence's duration, which suits series of different lengths. Null where
    `frames` or `seconds` gives the length."""

    @model_validator(mode="after")
    def _what_the_pattern_needs(self) -> "ObservationConfig":
        lengths = [name for name in ("frames", "seconds", "fraction") if getattr(self, name) is not None]
        if (self.pattern == "prefix") != bool(lengths):
            name = lengths[0] if lengths else "frames"
            raise ValueError(f"{name} is the length of a prefix; set it with pattern=prefix, and only then")
        if len(lengths) > 1:
            raise ValueError(f"{lengths[0]} and {lengths[1]} are two lengths of one prefix; keep one of them")
        if self.pattern != "prefix" and not self.ratios:
            raise ValueError(f"pattern={self.pattern} needs at least one ratio, as in ratios=[0.25]")
        for ratio in self.ratios:
            if self.pattern == "regular" and abs(1 / ratio - round(1 / ratio)) > 1e-9:
                raise ValueError(f"ratio {ratio} is not 1/n; a regular pattern observes every n-th frame")
        return self

    @property
    def forecasts(self) -> bool:
        """Whether only the beginning is observed, so that evaluation scores forecasts of the rest."""
        return self.pattern == "prefix"

    def check(self, spec: DataSpec, where: str) -> None:
        """Raise `DriftworkError` for a pattern that the data do not allow; `where` names the data set."""
        if self.pattern in ("entries", "channels") and spec.table is None:
            raise DriftworkError(
                f"pattern={self.pattern}: masks of {where} are of whole frames, and only tables have masks of "
                "single entries; set pattern=random, regular or block"
            )
        if (self.seconds is not None or self.fraction is not None) and spec.table is None:
            raise DriftworkError(
                f"pattern=prefix: {where} is not a table, so its frames are at equal times; set frames"
            )

    def each(self, length: int) -> dict[str, "ObservationConfig"]:
        """Return one config for each ratio, keyed by the ratio in percent.

        A prefix is one config, keyed by its percentage of `length` frames or of the duration, or by its seconds."""
        if self.pattern == "prefix":
            share = None if self.frames is None else self.frames / length
            share = self.fraction if share is None else share
            return {f"{self.seconds if share is None else 100 * share:g}": self}
        return {f"{100 * ratio:g}": self.model_copy(update={"ratios": (ratio,)}) for ratio in self.ratios}

    def at(self, ratios: tuple[float, ...]) -> "ObservationConfig":
        """Return the same pattern at other ratios of observed frames; a prefix is replaced by every n-th frame."""
        pattern = "regular" if self.forecasts else self.pattern
        return build(ObservationConfig, {"pattern": pattern, "ratios": ratios}, where="")


def key_seed(*parts: object) -> int:
    """Return a 63-bit seed from the parts that identify a draw, equal on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mask(
    observation: ObservationConfig, times: NDArray[np.float64], present: NDArray[np.bool_], seed: int
) -> NDArray[np.bool_]:
    """Return the mask of observed frames [T], or of observed entries [T, D]: bool of the shape of `present`.

    The mask is a pure function of the arguments. A frame of entries is present if at least one of them is; if it is
    observed, all its present entries are.

    - `random`: `round(ratio * number present)` frames, at least one, all subsets equally likely;
    - `regular`: those of frames 0, n, 2 n, ... that are present;
    - `prefix`: those of the first frames that are present, and a random part of the later ones;
    - `block`: all but a gap of `1 - ratio` of the duration, all places within the sequence equally likely; at least the
      first present frame;
    - `entries`: `round(ratio * number present)` entries, at least one, all subsets equally likely;
    - `channels`: `round(ratio * number of channels present)` channels, at least one, all subsets equally likely.

    One of several ratios is drawn at random.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    ratio = observation.ratios[int(rng.integers(len(observation.ratios)))] if observation.ratios else 0.0
    if observation.pattern == "entries":
        return _some(rng, present.ravel(), ratio).reshape(present.shape)
    if observation.pattern == "channels":
        return present & _some(rng, np.asarray(present.any(0)), ratio)
    frames = np.asarray(present.any(1)) if present.ndim == 2 else present
    shown = _frames(observation, times, frames, ratio, rng)
    return present & shown[:, None] if present.ndim == 2 else shown


def _frames(
    observation: ObservationConfig, times: NDArray[np.float64], present: NDArray[np.bool_], ratio: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return the mask [T] of those present frames that are observed."""
    shown = np.zeros_like(present)
    if observation.pattern == "regular":
        shown[:: round(1 / ratio)] = True
        return shown & present
    if observation.pattern == "block":
        since, duration = times - times[0], times[-1] - times[0]
        start = float(rng.random()) * ratio * duration
        shown = present & ((since < start) | (since >= start + (1 - ratio) * duration))
        if not shown.any():
            shown[np.flatnonzero(present)[:1]] = True
        return shown
    first = _first(observation, times)
    if first == 0:
        return _some(rng, present, ratio)
    shown[:first] = present[:first]
    shown[first:] = _some(rng, present[first:], ratio)
    return shown


def _first(observation: ObservationConfig, times: NDArray[np.float64]) -> int:
    """Return the number of frames of the prefix; 0 without one."""
    if observation.seconds is None and observation.fraction is None:
        return observation.frames or 0
    length = observation.seconds or (observation.fraction or 0.0) * (times[-1] - times[0])
    return max(1, int(np.searchsorted(times - times[0], length)))


def _some(rng: np.random.Generator, present: NDArray[np.bool_], ratio: float) -> NDArray[np.bool_]:
    """Draw `round(ratio * number)` of the true elements of `present` [N], at least one unless the ratio is 0."""
    shown, places = np.zeros_like(present), np.flatnonzero(present)
    if len(places) and ratio:
        shown[rng.choice(places, size=max(1, round(ratio * len(places))), replace=False)] = True
    return shown
