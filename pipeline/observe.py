"""Which frames a model is shown.

A training mask is a pure function of (run seed, epoch, sequence key): it does not depend on the rank, the batch or the
worker that reads the sequence. Evaluation observes every n-th frame.
"""

import hashlib
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.config_base import Config

Ratio = Annotated[float, Field(gt=0, le=1)]


class ObservationConfig(Config):
    pattern: Literal["random", "regular"]
    """`random`: a share of the frames, drawn anew for each sequence and epoch; `regular`: every n-th, n = 1 / ratio."""
    ratios: tuple[Ratio, ...] = Field(min_length=1)
    """Shares of the frames that are observed; training draws one of them for each sequence and epoch, evaluation scores
    them one after another."""

    @model_validator(mode="after")
    def _regular_is_every_nth(self) -> "ObservationConfig":
        for ratio in self.ratios:
            if self.pattern == "regular" and abs(1 / ratio - round(1 / ratio)) > 1e-9:
                raise ValueError(f"ratio {ratio} is no 1/n, and a regular pattern observes every n-th frame")
        return self


def key_seed(*parts: object) -> int:
    """A 63-bit seed from what names a draw, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mask(observation: ObservationConfig, present: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """[T] bool, which of the present frames [T] are observed: a pure function of its arguments.

    `random`: `round(ratio * number present)` frames, at least one, all subsets equally likely; `regular`: of frames 0,
    n, 2 n, ... those that are present. Of several ratios one is drawn.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    ratio = observation.ratios[int(rng.integers(len(observation.ratios)))]
    shown = np.zeros_like(present)
    frames = np.flatnonzero(present)
    if observation.pattern == "regular":
        shown[:: round(1 / ratio)] = True
        return shown & present
    if len(frames):
        shown[rng.choice(frames, size=max(1, round(ratio * len(frames))), replace=False)] = True
    return shown
