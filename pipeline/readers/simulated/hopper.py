"""MuJoCo's hopper without control, as in latent ODEs (Rubanova et al., 2019): a one-legged body that falls and tumbles.

A sequence is simulated for 200 steps of 5 ms from a random start: x and height uniform in [0, 0.5], angles in [-2, 2],
velocities in [-5, 5]. A frame is 7 positions (x, height, torso, waist, hip, knee, ankle) and their 7 velocities. Values
are scaled as published: minus the minimum, divided by the maximum, of each channel over 10,000 sequences. Minima and
maxima are constants here, so that a sequence depends on its own name alone. MuJoCo repeats itself on one machine; other
processors and versions round differently, and tumbling enlarges the difference.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftwork.errors import DriftworkError
from driftwork.registry import Named
from pipeline.observe import key_seed
from pipeline.readers.simulated.numbered import TestSize, TrainSize, ValSize, items
from pipeline.sequence import DataSpec, Item, Sequence

STEPS = 200
INTERVAL = 0.005
"""Time between frames, in seconds: MuJoCo's own step."""
LEAST = np.array([-6.01, -0.98, -12.71, -2, -3.04, -2, -2, -9.53, -9.3, -45.36, -44.89, -63.16, -53.2, -120.86])
"""Minimum of each channel over 10,000 whole sequences, in m, rad, m/s and rad/s; simulated by MuJoCo 3.17."""
MOST = np.array([7.2, 2.8, 14.2, 2, 2, 2.93, 2, 9.47, 7.91, 69.27, 106.53, 31.21, 74.38, 54.19])
"""Maximum of each channel over the same sequences and in the same units as `LEAST`."""


class HopperConfig(Named):
    name: Literal["hopper"] = "hopper"
    """Data set: a simulated one-legged body that falls and tumbles."""
    train: TrainSize = 2000
    val: ValSize = 200
    test: TestSize = 1000
    frames: int = Field(100, ge=2, le=STEPS)
    """Number of frames of a sequence, which is a random window of the 200 simulated frames. 200 takes all."""
    seed: int = Field(0, ge=0)
    """Seed of the starts and the windows."""


@dataclass(frozen=True)
class Hopper:
    """Reader without files: a sequence depends on the seed, the split and its number. Values are float32 [T, 14]."""

    config: HopperConfig

    def spec(self) -> DataSpec:
        return DataSpec(
            dim=14, length=self.config.frames, interval=INTERVAL, likelihood="gaussian",
            units="(state - minimum) / maximum",
        )  # fmt: skip

    def find(self, source: Path | None) -> list[Item]:
        """Return one item per sequence; `source` is ignored."""
        return items(self.config.train, self.config.val, self.config.test)

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        random = np.random.Generator(np.random.Philox(key=key_seed("hopper", self.config.seed, item.name)))
        states = (simulate(random) - LEAST) / MOST
        first = int(random.integers(STEPS - self.config.frames + 1))
        values = states[first : first + self.config.frames].astype(np.float32)
        times = INTERVAL * np.arange(len(values), dtype=np.float64)
        return [Sequence(item.name, item.group, times, values, np.ones(len(values), np.bool_))]


def simulate(random: np.random.Generator) -> NDArray[np.float64]:
    """Return the states [200, 14] of one fall, positions before velocities, in MuJoCo's units."""
    physics = _physics()
    with physics.reset_context():
        physics.data.qpos[:2] = random.uniform(0, 0.5, 2)
        physics.data.qpos[2:] = random.uniform(-2, 2, 5)
        physics.data.qvel[:] = random.uniform(-5, 5, 7)
    states = np.empty((STEPS, 14))
    for state in states:
        state[:7], state[7:] = physics.data.qpos, physics.data.qvel
        physics.step()
    return states


@cache
def _physics() -> Any:
    os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is drawn, and there may be no display
    try:
        from dm_control import suite
    except ModuleNotFoundError:
        raise DriftworkError("dm_control is not installed; run pip install -e '.[hopper]'") from None
    return suite.load("hopper", "stand").physics
