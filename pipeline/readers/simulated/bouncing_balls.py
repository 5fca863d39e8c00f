"""Simulated bouncing balls (Sutskever and Hinton, 2007, and many since).

Three equal balls move in a square box and bounce off its walls and off one another without loss. The motion is exact:
straight lines from one collision to the next. Energy, and momentum between two balls, are conserved up to rounding. The
motion is computed by sums, products, quotients and square roots only, which are the same on every machine. Pictures are
rounded to 256 greys, so that the last bit of an exponential has no effect.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftwork.registry import Named
from pipeline.observe import key_seed
from pipeline.readers.simulated.numbered import TestSize, TrainSize, ValSize, items
from pipeline.sequence import DataSpec, Item, Sequence, grey

BALLS = 3
BOX = 10.0
RADIUS = 1.2
SPEED = 0.5
"""Root of the summed squares of all velocities, in lengths per frame."""
FRAMES = 20
SIDE = 32
"""Side of a picture, in pixels."""
INTERVAL = 0.1
"""Time units between frames, as in ODE2VAE."""


class BouncingBallsConfig(Named):
    name: Literal["bouncing_balls"] = "bouncing_balls"
    """Data set: simulated films of three bouncing balls."""
    train: TrainSize = 500
    val: ValSize = 50
    test: TestSize = 50
    seed: int = Field(0, ge=0)
    """Seed of the simulated films."""


class Film(NamedTuple):
    positions: NDArray[np.float64]
    """[T, balls, 2] x and y of the centres, in lengths."""
    velocities: NDArray[np.float64]
    """[T, balls, 2] velocities, in lengths per frame."""


@dataclass(frozen=True)
class BouncingBalls:
    """Reader without files: film n of a split depends on the seed, the split and n. Values are float32 [20, 1024]."""

    config: BouncingBallsConfig

    def spec(self) -> DataSpec:
        return DataSpec.of_pictures(SIDE, FRAMES, INTERVAL)

    def find(self, source: Path | None) -> list[Item]:
        """Return one item per film; `source` is ignored."""
        return items(self.config.train, self.config.val, self.config.test)

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        random = np.random.Generator(np.random.Philox(key=key_seed("bouncing_balls", self.config.seed, item.name)))
        values = grey(draw(simulate(random).positions)).reshape(FRAMES, SIDE * SIDE)
        times = INTERVAL * np.arange(FRAMES, dtype=np.float64)
        return [Sequence(item.name, item.group, times, values, np.ones(FRAMES, np.bool_))]


class _Balls:
    """Positions and velocities of the balls, as plain floats: numpy's order of summation may vary by machine."""

    def __init__(self, x: list[list[float]], v: list[list[float]]) -> None:
        self.x, self.v = x, v

    def advance(self, time: float) -> None:
        """Advance by `time`, through all collisions within it."""
        while True:
            until, what, first, second = min(self._walls() + self._pairs(), default=(math.inf, "", 0, 0))
            step = min(until, time)
            for x, v in zip(self.x, self.v, strict=True):
                x[0] += step * v[0]
                x[1] += step * v[1]
            if until >= time:
                return
            time -= until
            if what == "wall":
                self._bounce(first, axis=second)
            else:
                self._collide(first, second)

    def _walls(self) -> list[tuple[float, str, int, int]]:
        """Return (time to collision, "wall", ball, axis) for each wall that a ball moves towards."""
        events = []
        for ball in range(BALLS):
            for axis in (0, 1):
                x, v = self.x[ball][axis], self.v[ball][axis]
                if v != 0:
                    wall = BOX - RADIUS if v > 0 else RADIUS
                    events.append((max(0.0, (wall - x) / v), "wall", ball, axis))
        return events

    def _pairs(self) -> list[tuple[float, str, int, int]]:
        """Return (time to collision, "pair", ball, ball) for each pair that will touch: |dx + t dv| = 2 RADIUS."""
        events = []
        for i, j in combinations(range(BALLS), 2):
            dx, dv = _minus(self.x[j], self.x[i]), _minus(self.v[j], self.v[i])
            a, b, c = _dot(dv, dv), _dot(dx, dv), _dot(dx, dx) - 4 * RADIUS * RADIUS
            if b < 0 and b * b > a * c:  # they approach and touch
                events.append((max(0.0, c / (math.sqrt(b * b - a * c) - b)), "pair", i, j))
        return events

    def _bounce(self, ball: int, axis: int) -> None:
        self.x[ball][axis] = BOX - RADIUS if self.v[ball][axis] > 0 else RADIUS  # rounding may have put it beyond
        self.v[ball][axis] = -self.v[ball][axis]

    def _collide(self, i: int, j: int) -> None:
        """Exchange the velocities of two equal masses along the line of their centres."""
        dx, dv = _minus(self.x[j], self.x[i]), _minus(self.v[j], self.v[i])
        share = _dot(dx, dv) / _dot(dx, dx)
        for axis in (0, 1):
            self.v[i][axis] += share * dx[axis]
            self.v[j][axis] -= share * dx[axis]


def simulate(random: np.random.Generator) -> Film:
    """Simulate a film from a random start: any position in the box without overlap, any direction, and the same energy
    for all films."""
    balls = _start(random)
    positions, velocities = [], []
    for _ in range(FRAMES):
        positions.append([tuple(x) for x in balls.x])
        velocities.append([tuple(v) for v in balls.v])
        balls.advance(1.0)
    return Film(np.array(positions), np.array(velocities))


def draw(positions: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Draw pictures [T, 32, 32], y down: each ball adds exp(-(d / RADIUS)^8) at distance d from its centre; sums are
    clipped at white."""
    pixels = (np.arange(SIDE) + 0.5) * (BOX / SIDE)
    x, y = positions[..., 0, None], positions[..., 1, None]  # [T, balls, 1]
    squares = (np.square(pixels - y)[..., :, None] + np.square(pixels - x)[..., None, :]) / (RADIUS * RADIUS)
    bright = np.exp(-np.square(np.square(squares)))
    total = bright[:, 0] + bright[:, 1] + bright[:, 2]
    return np.rint(255 * np.minimum(total, 1.0)).astype(np.uint8)


def _start(random: np.random.Generator) -> _Balls:
    while True:
        x = [[RADIUS + (BOX - 2 * RADIUS) * random.random() for _ in "xy"] for _ in range(BALLS)]
        if all(_dot(d := _minus(p, q), d) > 4 * RADIUS * RADIUS for p, q in combinations(x, 2)):
            break
    while True:  # a random direction: a point of the ball within the cube
        v = [[2 * random.random() - 1 for _ in "xy"] for _ in range(BALLS)]
        norm = math.sqrt(math.fsum(_dot(u, u) for u in v))
        if 0.01 < norm < 1:
            return _Balls(x, [[SPEED * c / norm for c in u] for u in v])


def _minus(p: list[float], q: list[float]) -> list[float]:
    return [p[0] - q[0], p[1] - q[1]]


def _dot(p: list[float], q: list[float]) -> float:
    return p[0] * q[0] + p[1] * q[1]
