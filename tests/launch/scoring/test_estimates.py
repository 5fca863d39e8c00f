import math

import numpy as np
import pytest

from launch.scoring.estimates import Scores, difference, estimate, over_seeds

ROUNDING = 130 * 10 * np.finfo(np.float64).eps
"""Relative rounding error: numpy sums up to 130 sequences one after another, and the mean, or x - ratio w, is up to ten
times smaller than the terms of the sum."""


def scores(x, w=None, groups=None):
    """Return scores of sequences that, by default, are their own groups with equal weights."""
    keys = tuple(f"s{i:04d}" for i in range(len(x)))
    w = np.ones(len(x)) if w is None else w
    return Scores(keys, keys if groups is None else tuple(map(str, groups)), tuple(map(float, x)), tuple(map(float, w)))


def songs(seed=0, count=30):
    """Return (x, w, group) of songs of 1 to 6 correlated windows."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(count), rng.integers(1, 7, count))
    w = rng.integers(1, 20, len(group)).astype(float)
    return w * (3 + rng.normal(size=count)[group] + 0.3 * rng.normal(size=len(group))), w, group


def test_independent_mean_has_usual_standard_error():
    x = np.random.default_rng(0).normal(size=40)
    found = estimate(scores(x, np.arange(40) < 37))
    assert found[2:] == (37, 37)
    np.testing.assert_allclose(found[:2], [x[:37].mean(), x[:37].std(ddof=1) / 37**0.5], rtol=ROUNDING)


def test_ratio_error_is_linearised():
    x, w, _ = songs()
    n, ratio = len(x), x.sum() / w.sum()
    stderr = math.sqrt(((x - ratio * w) ** 2).sum() * n / (n - 1)) / w.sum()
    np.testing.assert_allclose(estimate(scores(x, w))[:2], [ratio, stderr], rtol=ROUNDING)


def test_standard_error_is_cluster_robust():
    """The reference regresses x / w on a constant with weights w, with bread and meat of the sandwich as matrices."""
    x, w, group = songs()
    y, design = x / w, np.ones((len(x), 1))
    bread = np.linalg.inv(design.T @ (w[:, None] * design))
    beta = bread @ design.T @ (w * y)
    member = (group[:, None] == np.unique(group)).astype(float)
    score = member.T @ (design * (w * (y - design @ beta))[:, None])
    G = member.shape[1]
    variance = G / (G - 1) * bread @ score.T @ score @ bread
    found = estimate(scores(x, w, group))
    np.testing.assert_allclose(found[:2], [beta[0], variance[0, 0] ** 0.5], rtol=ROUNDING)
    assert found[2:] == (len(x), G)


def test_repeated_window_adds_no_information():
    x, w, group = songs()
    once, twice = (estimate(scores(np.tile(x, k), np.tile(w, k), np.tile(group, k))) for k in (1, 2))
    np.testing.assert_allclose(twice[:2], once[:2], rtol=ROUNDING)
    assert twice[2:] == (2 * once.n, once.groups)


def test_standard_error_matches_repeated_draws():
    draws = [songs(seed, count=60) for seed in range(400)]
    found = [estimate(scores(*draw)) for draw in draws]
    apart = [estimate(scores(x, w)).stderr for x, w, _ in draws]
    spread = np.std([x.value for x in found])
    np.testing.assert_allclose(np.mean([x.stderr for x in found]), spread, rtol=0.08)
    assert np.mean(apart) < 0.7 * spread  # treating windows as independent underestimates the error


def test_no_bit_depends_on_the_order():
    x, w, group = songs()
    order = np.random.default_rng(1).permutation(len(x))
    one, other = scores(x, w, group), scores(x[order], w[order], group[order])
    assert estimate(one) == estimate(other)


def test_few_groups_count_their_sequences():
    x, w, group = songs(count=9)
    few, alone = estimate(scores(x, w, group)), estimate(scores(x, w))
    assert few.groups == 9
    assert few[:3] == alone[:3]
    x, w, group = songs(count=10)
    assert estimate(scores(x, w, group)).stderr > 1.3 * estimate(scores(x, w)).stderr
    ours, theirs = (scores(x, w, group // 2) for x in (x, x[::-1]))
    assert difference([ours], [theirs])[1] == difference([scores(x, w)], [scores(x[::-1], w)])[1]


def test_too_few_sequences_give_nan():
    one = estimate(scores([1.0]))
    assert (one.value, one.n, one.groups) == (1.0, 1, 1)
    assert math.isnan(one.stderr)
    nothing = estimate(scores([0.0, 0.0], [0, 0]))
    assert nothing[2:] == (0, 0)
    assert math.isnan(nothing.value)
    for wild in (math.nan, math.inf, -math.inf):
        assert math.isnan(estimate(scores([1.0, wild, 2.0])).value)
        assert math.isnan(difference([scores([1.0, wild, 2.0])], [scores([1.0, 2.0, 2.0])]).value)


def test_difference_to_a_shift_is_the_shift():
    x, w, group = songs()
    x = np.round(x * 64) / 64  # so that the shift is exact
    ours, shifted = scores(x, w, group), scores(x + 0.25 * w, w, group)
    assert difference([ours], [ours])[:2] == (0.0, 0.0)
    found = difference([shifted], [ours])
    assert found.value == pytest.approx(0.25, abs=1e-14)
    assert found.stderr < 1e-14
    assert found[2:] == estimate(ours)[2:]


def test_paired_difference_is_mean_of_differences():
    rng = np.random.default_rng(0)
    song = rng.normal(0, 10, 50)
    a, b = song + rng.normal(size=50), song + rng.normal(size=50) + 1
    found = difference([scores(b)], [scores(a)])
    np.testing.assert_allclose(found[:2], [(b - a).mean(), (b - a).std(ddof=1) / 50**0.5], rtol=ROUNDING)
    assert found.stderr < 0.2 * estimate(scores(a)).stderr


def test_error_over_seeds_includes_their_variance():
    x, w, group = songs()
    rng = np.random.default_rng(2)
    runs = [scores(x + shift * w + rng.normal(size=len(x)), w, group) for shift in (0.0, 0.5, -0.3)]
    values = [estimate(run).value for run in runs]
    together = estimate(scores(np.mean([run.x for run in runs], 0), w, group))
    found = over_seeds(runs)
    between = np.var(values, ddof=1) / 3
    np.testing.assert_allclose(found[:2], [np.mean(values), (together.stderr**2 + between) ** 0.5], rtol=ROUNDING)
    assert over_seeds(runs[:1]) == estimate(runs[0])
    other = scores(x, w, group)
    same_songs = difference([scores(np.mean([run.x for run in runs], 0), w, group)], [other])
    found = difference(runs, [other])
    np.testing.assert_allclose(found.stderr, (same_songs.stderr**2 + between) ** 0.5, rtol=ROUNDING)
