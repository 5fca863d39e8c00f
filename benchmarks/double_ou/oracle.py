"""The best possible prediction of the double Ornstein-Uhlenbeck process: an entry's exact distribution given the past.

Given the level r of a sequence the process is linear and Gaussian, so that a Kalman filter is exact. Its mean is affine
in r and its variance does not depend on r. The likelihood of r is therefore Gaussian, and its posterior is this
Gaussian truncated to the box of `LEVELS`. The remaining integral over r is computed in closed form over r_y, and by
quadrature over r_x. The filter is given theta, sigma, rho and the box, but neither r nor the path between observations.

T frames of a sequence, 2 channels, Q nodes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pipeline.readers.simulated.double_ou import INTERVAL, LEVELS, RHO, SIGMA, THETA

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(256)
_RIDGE = 1e-8
"""Precision added to the level's likelihood, which is singular until both channels are observed. With levels up to 1.5
it changes a log density by at most ridge * 1.5**2."""
Array = NDArray[np.float64]


class Limit(NamedTuple):
    """Exact predictions of the entries of a sequence, each given all earlier frames."""

    log_density: Array
    """[T, 2] log density of each entry given all earlier frames; 0 where it is not observed."""
    mean: Array
    """[T, 2] mean of each entry given all earlier frames."""
    joint: float
    """Joint log density of all observations of the sequence, which includes the correlation of the two channels of a
    frame."""


class _Level(NamedTuple):
    """Posterior of the level r: exp(-1/2 r' precision r + shift' r) within the box."""

    precision: Array
    shift: Array

    def nodes(self) -> tuple[Array, Array, float]:
        """Return nodes r_x [Q], their log weights [Q] and the variance of r_y given r_x.

        The weights include the density of r_x, but not the integral over r_y."""
        (a, b), (_, c) = self.precision + _RIDGE * np.eye(2)
        spread = (a - b * b / c) ** -0.5
        middle = (self.shift[0] - b * self.shift[1] / c) * spread**2
        low, high = max(LEVELS[0][0], middle - 9 * spread), min(LEVELS[0][1], middle + 9 * spread)
        half = (high - low) / 2
        x = (high + low) / 2 + half * _NODES
        y = (self.shift[1] - b * x) / c
        log = -0.5 * (a * x * x - c * y * y) + self.shift[0] * x + np.log(_WEIGHTS * half)
        return x, log + 0.5 * np.log(2 * np.pi / c), 1 / c

    def given(self, x: Array) -> Array:
        """Return the mean of r_y for each r_x, without the box."""
        return (self.shift[1] - self.precision[0, 1] * x) / (self.precision[1, 1] + _RIDGE)


def _inside(mean: Array, variance: float) -> Array:
    """Return the probability that a Gaussian lies in the range of r_y."""
    low, high = ((edge - mean) * variance**-0.5 for edge in LEVELS[1])
    return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))


def _total(log: Array, factor: Array) -> float:
    """Return the log of the sum of exp(log) * factor."""
    top = log.max()
    return float(top + np.log((np.exp(log - top) * factor).sum()))


def limit(times: Array, values: Array, observed: NDArray[np.bool_]) -> Limit:
    """Filter one sequence and return the exact predictions.

    Args:
        times: [T], multiples of the process's step, from 0 on. values: [T, 2]. observed: [T, 2].
    """
    steps = np.rint(np.diff(times, prepend=0.0) / INTERVAL).astype(int)
    correlation = np.array([[1, RHO], [RHO, 1]])
    keep = 1 - THETA * INTERVAL
    mean = np.zeros((2, 3))  # the state's mean is mean @ (r_x, r_y, 1)
    covariance = np.zeros((2, 2))
    level, constant = _Level(np.zeros((2, 2)), np.zeros(2)), 0.0
    log_density, expected = np.zeros(values.shape), np.zeros(values.shape)
    for t, (n, value, there) in enumerate(zip(steps, values.astype(np.float64), observed, strict=True)):
        mean = keep**n * mean
        mean[:, :2] += (1 - keep**n) * np.eye(2)
        covariance = keep ** (2 * n) * covariance
        covariance += SIGMA**2 * INTERVAL * (1 - keep ** (2 * n)) / (1 - keep**2) * correlation
        for channel in (0, 1):
            density, expected[t, channel] = _marginal(
                level, mean[channel], covariance[channel, channel], value[channel]
            )
            log_density[t, channel] = density if there[channel] else 0.0
        if there.any():
            H, y = np.eye(2)[there], value[there]
            S = H @ covariance @ H.T
            gain, solved = covariance @ H.T @ np.linalg.inv(S), np.linalg.inv(S)
            A, rest = (H @ mean)[:, :2], y - (H @ mean)[:, 2]
            level = _Level(level.precision + A.T @ solved @ A, level.shift + A.T @ solved @ rest)
            constant -= 0.5 * (rest @ solved @ rest + np.linalg.slogdet(2 * np.pi * S)[1])
            mean = mean - gain @ H @ mean
            mean[:, 2] += gain @ y
            covariance = covariance - gain @ H @ covariance
    return Limit(log_density, expected, constant + _evidence(level))


def _evidence(level: _Level) -> float:
    """Return the log of the mean of the level's likelihood over the box, whose area is 1."""
    x, log, variance = level.nodes()
    return _total(log, _inside(level.given(x), variance))


def _marginal(level: _Level, row: Array, variance: float, value: float) -> tuple[float, float]:
    """Return the log density at `value` and the mean of a channel that is Gaussian around row @ (r_x, r_y, 1)."""
    x, log, spread = level.nodes()
    y = level.given(x)
    within = _inside(y, spread)
    weight = np.exp(log - log.max()) * within
    edges = [(edge - y) * spread**-0.5 for edge in LEVELS[1]]
    slope = (np.exp(-0.5 * edges[0] ** 2) - np.exp(-0.5 * edges[1] ** 2)) * (spread / (2 * np.pi)) ** 0.5
    inner = y * within + slope  # the mean of r_y within the box, times the probability of it
    mean = (weight @ (row[0] * x + row[2]) + np.exp(log - log.max()) @ inner * row[1]) / weight.sum()
    if variance <= 0:
        return 0.0, mean  # the process before its first step
    total = variance + row[1] ** 2 * spread
    error = value - (row[0] * x + row[1] * y + row[2])
    gain = row[1] * spread / total
    seen = _inside(y + gain * error, spread - gain * row[1] * spread)
    joint = _total(log - 0.5 * (error**2 / total + np.log(2 * np.pi * total)), seen)
    return joint - _total(log, within), mean
