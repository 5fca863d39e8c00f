"""Observation patterns: the frames that a model observes.

A training mask is a pure function of (run seed, epoch, sequence key): it does not depend on the rank, the batch or the
worker that reads the sequence. Evaluation observes every n-th frame, or the first few.
"""

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from driftwork.config_base import Config, build

Ratio = Annotated[float, Field(gt=0, le=1)]


class ObservationConfig(Config):
    pattern: Literal["random", "regular", "prefix"]
    """Pattern of observed frames. `random` observes a fraction of the frames, drawn anew for each sequence and epoch.
    `regular` observes every n-th frame, n = 1 / ratio. `prefix` observes the first `frames` and a random fraction of
    the later ones."""
    ratios: tuple[Ratio, ...] = ()
    """Fractions of the frames that are observed; after a prefix, fractions of the later frames. Training draws one of
    them for each sequence and epoch; evaluation scores them one after another. An empty list after a prefix observes no
    later frames, and evaluation allows nothing else."""
    frames: int | None = Field(None, ge=1)
    """Number of frames of a prefix. Null for the other patterns."""

    @model_validator(mode="after")
    def _what_the_pattern_needs(self) -> "ObservationConfig":
        if (self.pattern == "prefix") != (self.frames is not None):
            raise ValueError("frames is the length of a prefix; set it with pattern=prefix, and only then")
        if self.pattern != "prefix" and not self.ratios:
            raise ValueError(f"pattern={self.pattern} needs at least one ratio, as in ratios=[0.25]")
        for ratio in self.ratios:
            if self.pattern == "regular" and abs(1 / ratio - round(1 / ratio)) > 1e-9:
                raise ValueError(f"ratio {ratio} is not 1/n; a regular pattern observes every n-th frame")
        return self

    def each(self, length: int) -> dict[str, "ObservationConfig"]:
        """Return one config for each ratio of observed frames, by its percentage of a sequence of `length` frames."""
        if self.frames is not None:
            return {f"{100 * self.frames / length:g}": self}
        return {f"{100 * ratio:g}": self.model_copy(update={"ratios": (ratio,)}) for ratio in self.ratios}

    def at(self, ratios: tuple[float, ...], where: str) -> "ObservationConfig":
        """Return the same pattern at other ratios of observed frames; a prefix is replaced by every n-th frame. `where`
        names the source in error messages."""
        pattern = "regular" if self.pattern == "prefix" else self.pattern
        return build(ObservationConfig, {"pattern": pattern, "ratios": ratios}, where)


def key_seed(*parts: object) -> int:
    """Return a 63-bit seed from the parts that name a draw, equal on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mask(observation: ObservationConfig, present: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Return which of the present frames [T] are observed, [T] bool, as a pure function of the arguments.

    - `random`: `round(ratio * number present)` frames, at least one, all subsets equally likely;
    - `regular`: those of frames 0, n, 2 n, ... that are present;
    - `prefix`: those of the first frames that are present, and a random part of the later ones.

    One of several ratios is drawn at random.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    ratio = observation.ratios[int(rng.integers(len(observation.ratios)))] if observation.ratios else 0.0
    shown = np.zeros_like(present)
    if observation.pattern == "regular":
        shown[:: round(1 / ratio)] = True
        return shown & present
    first = observation.frames or 0
    shown[:first] = present[:first]
    frames = first + np.flatnonzero(present[first:])
    if len(frames) and ratio:
        shown[rng.choice(frames, size=max(1, round(ratio * len(frames))), replace=False)] = True
    return shown
