"""Static covariates, random changes and folds of a table."""

import numpy as np
import pytest

from driftwork.errors import DriftworkError
from pipeline.observe import ObservationConfig
from pipeline.reading.augment import AugmentConfig, augment
from pipeline.reading.covariates import Covariates
from pipeline.reading.folds import FoldConfig, divide
from pipeline.reading.stream import Stream
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_rolls, write_table

ALL = ObservationConfig(pattern="entries", ratios=(1.0,))


def batch_of(folder, manifest, split="train"):
    return next(iter(Stream(folder, manifest, split, ALL, batch_size=8, seed=0, shuffle=False).epoch(0)))


def test_static_numbers_have_unit_scale_in_training(tmp_path):
    """A missing number is 0, and categories are one-hot."""
    manifest, _ = write_table(tmp_path, static=True)
    assert read_manifest(tmp_path) == manifest
    static = batch_of(tmp_path, manifest).static.double().numpy()
    known = (np.array([50, 60, 70]) - 60) / np.std([50, 60, 70])
    np.testing.assert_allclose(static[:, 0], [*known, 0], rtol=1e-7)  # rounded to single
    assert static[:, 1:].tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert np.array_equal(batch_of(tmp_path, manifest, "test").static, static)  # by the training split's statistics


def test_number_constant_in_training_is_zero(tmp_path):
    """A different number in another split would have no scale from training."""
    manifest, _ = write_table(tmp_path, static=True)
    stats = manifest.stats.model_copy(update={"static_mean": (50.0, 0.5, 0.5), "static_scale": (0.0, 0.5, 0.5)})
    covariates = Covariates(manifest.spec, stats, "data")
    assert [covariates.of({"static": [age, 1, 0]}).tolist() for age in (50.0, 5000.0, None)] == [[0, 1, 0]] * 3


def test_data_without_static_columns_have_no_covariates(tmp_path):
    for name, write in (("table", write_table), ("rolls", write_rolls)):
        manifest, _ = write(tmp_path / name)
        assert manifest.stats.static_mean is None
        assert b"static_mean" not in manifest.encode()  # the hash of earlier data is the same
        batch = batch_of(tmp_path / name, manifest) if name == "table" else None
        assert batch is None or batch.static.shape == (4, 0)


def test_table_without_static_statistics_is_refused(tmp_path):
    manifest, _ = write_table(tmp_path, static=True)
    stats = manifest.stats.model_copy(update={"static_mean": None})
    with pytest.raises(DriftworkError, match="no statistics of its static columns; prepare the data again"):
        batch_of(tmp_path, manifest.model_copy(update={"stats": stats}))


def test_fold_has_statistics_of_its_own_series(tmp_path):
    manifest, written = write_table(tmp_path, count=6, static=True)
    fold = divide(tmp_path, manifest, FoldConfig(count=4, fold=1))
    batch = batch_of(tmp_path, fold)
    train = [written[key] for key in batch.keys]
    ages = [s.about["static"][0] for s in train if s.about["static"][0] is not None]
    assert fold.stats.static_mean[0] == pytest.approx(np.mean(ages), rel=1e-14)
    assert fold.stats.observed == tuple(sum(s.mask for s in train).sum(0).tolist())


def test_stretch_of_a_table_keeps_its_entries(tmp_path):
    manifest, written = write_table(tmp_path)
    config, firsts = AugmentConfig(stretch=0.5, start=3), set()
    for seed in range(30):
        for sequence in written.values():
            changed = augment(config, manifest.spec, sequence, seed)
            first = len(sequence.times) - len(changed.times)
            firsts.add(first)
            assert np.array_equal(changed.values, sequence.values[first:])
            assert np.array_equal(changed.mask, sequence.mask[first:])
            speed = np.diff(sequence.times[first:]) / np.diff(changed.times)
            np.testing.assert_allclose(speed, speed[0], rtol=1e-13)  # sums of times below 16: 16 eps / 0.2
            assert 1 / 1.5 <= speed[0] <= 1.5
    assert firsts == {0, 1, 2, 3}


def test_binary_table_cannot_be_transposed(tmp_path):
    manifest, _ = write_table(tmp_path, likelihood="bernoulli")
    with pytest.raises(DriftworkError, match="holds no piano rolls"):
        AugmentConfig(transpose=2).check(manifest.spec, "data")
