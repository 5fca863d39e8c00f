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


def random_mask(present: NDArray[np.bool_], ratios: tuple[float, ...], seed: int) -> NDArray[np.bool_]:
    """[T] bool: `round(ratio * number present)` of the present frames, at least one, all subsets equally likely."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    ratio = ratios[int(rng.integers(len(ratios)))]
    frames = np.flatnonzero(present)
    shown = rng.choice(frames, size=max(1, round(ratio * len(frames))), replace=False)
    mask = np.zeros_like(present)
    mask[shown] = True
    return mask


def regular_mask(present: NDArray[np.bool_], ratio: float) -> NDArray[np.bool_]:
    """[T] bool: frames 0, n, 2 n, ... of those that are present, n = 1 / ratio."""
    mask = np.zeros_like(present)
    mask[:: round(1 / ratio)] = True
    return mask & present
