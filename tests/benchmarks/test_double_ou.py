"""Best possible prediction of the double Ornstein-Uhlenbeck process, against Gaussian conditioning on a grid."""

import numpy as np
import pytest

from benchmarks.double_ou.oracle import limit
from pipeline.readers.simulated.double_ou import INTERVAL, LEVELS, RHO, SIGMA, THETA, DoubleOu, DoubleOuConfig


def direct(times, values, mask, grid):
    """Return log densities [T, 2], means [T, 2] and the joint log density by conditioning the joint Gaussian of all
    entries, at each of grid x grid levels, which are then averaged (midpoint rule)."""
    keep, steps = 1 - THETA * INTERVAL, np.rint(times / INTERVAL).astype(int)
    axes = [low + (high - low) * (np.arange(grid) + 0.5) / grid for low, high in LEVELS]
    levels = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def covariance(one, other):
        (s, c), (t, d) = one, other
        stationary = SIGMA**2 * INTERVAL * (1 - keep ** (2 * min(s, t))) / (1 - keep**2)
        return stationary * keep ** abs(s - t) * (1.0 if c == d else RHO)

    entries = [(n, c) for n in range(len(times)) for c in (0, 1) if mask[n, c]]
    density, mean = np.zeros(values.shape), np.zeros(values.shape)

    def gaussian(which):
        places = [(steps[n], c) for n, c in which]
        K = np.array([[covariance(a, b) for b in places] for a in places])
        middle = np.stack([(1 - keep**s) * levels[:, c] for s, c in places], 1)
        return K, np.array([values[n, c] for n, c in which]) - middle

    def log_likelihood(which):
        if not which:
            return np.zeros(len(levels))
        K, error = gaussian(which)
        return -0.5 * ((error @ np.linalg.inv(K) * error).sum(1) + np.linalg.slogdet(2 * np.pi * K)[1])

    def average(log):
        return log.max() + np.log(np.exp(log - log.max()).mean())

    for n, c in [(n, c) for n in range(1, len(times)) for c in (0, 1)]:
        past = [entry for entry in entries if entry[0] < n]
        before = log_likelihood(past)
        if mask[n, c]:
            density[n, c] = average(log_likelihood([*past, (n, c)])) - average(before)
        expected = (1 - keep ** steps[n]) * levels[:, c]
        if past:
            K, error = gaussian(past)
            cross = np.array([covariance((steps[n], c), (steps[m], d)) for m, d in past])
            expected = expected + error @ np.linalg.inv(K) @ cross
        weight = np.exp(before - before.max())
        mean[n, c] = weight @ expected / weight.sum()
    return density, mean, average(log_likelihood(entries))


@pytest.mark.parametrize("number", range(2))
def test_filter_equals_direct_conditioning(number):
    """The midpoint rule's error falls with the square of the spacing: two grids give an estimate of it."""
    reader = DoubleOu(DoubleOuConfig(seed=1))
    (sequence,) = reader.read(None, reader.find(None)[number])
    times, values, mask = (x[:6] for x in sequence[2:5])
    found = limit(times, values, mask)
    coarse, fine = (direct(times, values.astype(np.float64), mask, grid) for grid in (150, 300))
    for ours, one, other in zip(found, coarse, fine, strict=True):
        bound = 2 * np.abs(np.subtract(one, other)) + 1e-7
        assert (np.abs(np.subtract(ours, other)) < bound).all()
        assert np.max(bound) < 0.02


def test_joint_density_is_above_the_marginals():
    """A frame of both channels is more informative than each channel by itself; a single channel has one density."""
    reader = DoubleOu(DoubleOuConfig())
    gains = []
    for item in reader.find(None)[:10]:
        (sequence,) = reader.read(None, item)
        found = limit(*sequence[2:5])
        gains.append(found.joint - found.log_density.sum())
        alone = sequence.mask & (np.arange(2) == 0)
        only = limit(sequence.times, sequence.values, alone)
        assert only.joint == pytest.approx(only.log_density.sum(), abs=1e-6 * len(alone))
    assert np.mean(gains) > 1
