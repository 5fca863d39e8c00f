"""The double Ornstein-Uhlenbeck process of GRU-ODE-Bayes (De Brouwer et al., 2019): two channels driven by almost the
same noise, each observed at its own times.

    dY = theta (r - Y) dt + sigma dW,    Y(0) = 0,    corr(dW_x, dW_y) = rho

Parameters are those of the authors' program: theta = 1, sigma = 0.1, rho = 0.99, and for each sequence a level r,
uniform in [0.5, 1.5] x [-1.5, -0.5], to which the mean jumps at the start. Euler steps of 0.05 go over 10 units of
time. 16 to 23 of the steps are observed: 40 % x alone, 40 % y alone, 20 % both. The first frame, at time 0, holds no
observation: the process is always 0 there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftwork.registry import Named
from pipeline.observe import key_seed
from pipeline.readers.simulated.numbered import TestSize, TrainSize, ValSize, items
from pipeline.sequence import DataSpec, Item, Sequence
from pipeline.table_spec import TableSpec

STEPS = 200
INTERVAL = 0.05
"""Length of an Euler step, in units of time, which count as seconds."""
THETA, SIGMA, RHO = 1.0, 0.1, 0.99
LEVELS = ((0.5, 1.5), (-1.5, -0.5))
"""Range of the level r of each channel."""
OBSERVED = (16, 24)
"""Range of the number of observed steps; the upper end is excluded."""
KINDS = np.array([[True, False], [False, True], [True, True]])
SHARES = (0.4, 0.4, 0.2)
"""Probability that x, y or both are observed at an observed step."""


class DoubleOuConfig(Named):
    name: Literal["double_ou"] = "double_ou"
    """Data set: a simulated Ornstein-Uhlenbeck process of two correlated channels, observed at random times."""
    train: TrainSize = 2000
    val: ValSize = 500
    test: TestSize = 1000
    seed: int = Field(0, ge=0)
    """Seed of the process and of its observations."""


@dataclass(frozen=True)
class DoubleOu:
    """Reader without files: a sequence depends on the seed, the split and its number. Values are float32 [T, 2]."""

    config: DoubleOuConfig

    def spec(self) -> DataSpec:
        table = TableSpec(
            channels=("x", "y"),
            units=(),
            layout="wide",
            series="series",
            time="time",
            time_unit="s",
            zone=None,
            static=(),
        )
        return DataSpec(
            dim=2,
            length=OBSERVED[1],
            interval=INTERVAL,
            likelihood="gaussian",
            units="value",
            kind="table",
            table=table,
        )

    def find(self, source: Path | None) -> list[Item]:
        """Return one item per sequence; `source` is ignored."""
        return items(self.config.train, self.config.val, self.config.test)

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        random = np.random.Generator(np.random.Philox(key=key_seed("double_ou", self.config.seed, item.name)))
        path = simulate(random)
        steps = 1 + np.sort(random.choice(STEPS - 1, int(random.integers(*OBSERVED)), replace=False))
        mask = np.zeros((len(steps) + 1, 2), np.bool_)
        mask[1:] = KINDS[random.choice(3, len(steps), p=SHARES)]
        steps = np.concatenate([[0], steps])
        values = np.where(mask, path[steps], 0).astype(np.float32)
        about = {"series": item.name, "start": 0.0, "static": []}
        return [Sequence(item.name, item.group, steps * np.float64(INTERVAL), values, mask, about)]


def simulate(random: np.random.Generator) -> NDArray[np.float64]:
    """Return the process [200, 2] at all steps."""
    low, high = np.transpose(LEVELS)
    level = random.uniform(low, high)
    x, y = random.standard_normal((2, STEPS - 1)) * (SIGMA * INTERVAL**0.5)
    noise = np.stack([x, RHO * x + (1 - RHO**2) ** 0.5 * y], axis=1)
    path = np.zeros((STEPS, 2))
    for step in range(1, STEPS):
        path[step] = path[step - 1] + THETA * INTERVAL * (level - path[step - 1]) + noise[step - 1]
    return path
