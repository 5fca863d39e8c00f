import numpy as np

from pipeline.shards.stats import Moments


def test_merged_moments_equal_the_whole():
    values = np.random.default_rng(0).normal(5.0, 3.0, (1000, 4)).astype(np.float32)
    mask = np.random.default_rng(1).random(1000) < 0.7
    merged = Moments.empty(4)
    for part in np.array_split(np.arange(1000), [3, 3, 400, 977]):  # one of them empty
        merged = merged.merge(Moments.of(values[part], mask[part]))
    stats = merged.stats()
    assert stats.frames == mask.sum()
    # 700 additions in either order: 700 eps / 2 = 8e-14.
    np.testing.assert_allclose(stats.mean, values[mask].mean(axis=0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(stats.scale, values[mask].std(axis=0, dtype=np.float64), rtol=1e-13)


def test_masks_of_channels_count_each_value():
    """One channel is observed in the last part alone, and one never."""
    values = np.random.default_rng(0).normal(5.0, 3.0, (1000, 4)).astype(np.float32)
    mask = np.random.default_rng(1).random((1000, 4)) < [0.7, 0.2, 1, 0]
    mask[:977, 1] = False
    merged = Moments.empty(4)
    for part in np.array_split(np.arange(1000), [3, 3, 400, 977]):
        merged = merged.merge(Moments.of(np.where(mask[part], values[part], np.nan), mask[part]))
    stats = merged.stats()
    assert stats.frames == 1000
    assert stats.observed == tuple(mask.sum(axis=0).tolist())
    for channel in range(3):
        seen = values[mask[:, channel], channel].astype(np.float64)  # 1000 additions in either order
        np.testing.assert_allclose(stats.mean[channel], seen.mean(), rtol=2e-13)
        np.testing.assert_allclose(stats.scale[channel], seen.std(), rtol=2e-13)
    assert (stats.mean[3], stats.scale[3]) == (0, 0)


def test_large_offset_costs_no_digits():
    values = np.random.default_rng(0).normal(0.0, 1.0, (10_000, 1)) + 1e8  # naive sums of squares lose all of them
    merged = Moments.empty(1)
    for part in np.split(values, 100):
        merged = merged.merge(Moments.of(part, np.ones(100, np.bool_)))
    np.testing.assert_allclose(merged.stats().scale, values.std(axis=0), rtol=1e-7)


def test_binary_rates_are_exact():
    values = np.zeros((8, 2), np.bool_)
    values[:2, 0] = True
    stats = Moments.of(values, np.ones(8, np.bool_)).stats()
    assert stats.mean == (0.25, 0.0)


def test_constant_channel_has_scale_zero():
    stats = Moments.of(np.full((5, 1), 3.0, np.float32), np.ones(5, np.bool_)).stats()
    assert (stats.mean, stats.scale) == ((3.0,), (0.0,))


def test_missing_frames_do_not_count():
    values, mask = np.ones((4, 1), np.float32), np.array([True, True, True, False])
    values[3] = np.nan
    assert Moments.of(values, mask).stats().mean == (1.0,)
    assert Moments.of(values, np.zeros(4, np.bool_)).frames == 0
