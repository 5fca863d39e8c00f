"""The double Ornstein-Uhlenbeck process: its moments, its observations, and its shards."""

import numpy as np
import pytest

from driftwork.config_base import load
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.simulated.double_ou import (
    INTERVAL,
    LEVELS,
    OBSERVED,
    RHO,
    SIGMA,
    STEPS,
    THETA,
    DoubleOu,
    DoubleOuConfig,
    simulate,
)
from pipeline.shards.verify import verify
from tests.places import ROOT

CONFIG = ROOT / "configs" / "prepare" / "double_ou.yaml"
READER = DoubleOu(DoubleOuConfig(train=2000, val=10, test=10))


@pytest.fixture(scope="module")
def sequences():
    return [READER.read(None, item)[0] for item in READER.find(None)]


def test_path_has_the_moments_of_its_equation():
    """Means and covariances of 4000 paths are within 5 standard errors of Euler's scheme in closed form."""
    random = np.random.default_rng(0)
    paths = np.stack([simulate(random) for _ in range(4000)])
    keep = 1 - THETA * INTERVAL
    for step in (1, 20, STEPS - 1):
        gone, noise = 1 - keep**step, SIGMA**2 * INTERVAL * (1 - keep ** (2 * step)) / (1 - keep**2)
        covariance = noise * np.array([[1, RHO], [RHO, 1]]) + gone**2 * np.eye(2) / 12
        found = paths[:, step]
        error = 5 * np.sqrt(covariance.diagonal() / len(found))
        assert (np.abs(found.mean(0) - gone * np.mean(LEVELS, axis=1)) < error).all()
        scale = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
        assert (np.abs(np.cov(found.T) - covariance) < 5 * scale * np.sqrt(2 / len(found))).all()
    assert not paths[:, 0].any()


def test_entries_are_observed_now_and_then(sequences):
    """The fractions are 40, 40 and 20 % within 5 standard errors; the first frame is at time 0 and empty."""
    counts = np.array([len(sequence.times) - 1 for sequence in sequences])
    assert {*counts.tolist()} == {*range(*OBSERVED)}
    mask = np.concatenate([sequence.mask[1:] for sequence in sequences])
    shares = np.array([(mask == kind).all(1).mean() for kind in ([True, False], [False, True], [True, True])])
    assert (np.abs(shares - [0.4, 0.4, 0.2]) < 5 * np.sqrt(0.25 / len(mask))).all()
    for sequence in sequences:
        assert (sequence.times[0], sequence.mask[0].any()) == (0.0, False)
        assert (np.diff(sequence.times) > INTERVAL / 2).all()
        assert not sequence.values[~sequence.mask].any()


def test_shards_are_those_of_a_table(tmp_path, without_ray):
    sizes = ["dataset.train=30", "dataset.val=4", "dataset.test=3", "files_per_shard=16"]
    manifest = prepare(load(PrepareConfig, CONFIG, [f"out={tmp_path / 'out'}", *sizes]))
    assert [sum(shard.samples for shard in manifest.of(split)) for split in ("train", "val", "test")] == [30, 4, 3]
    assert verify(tmp_path / "out").samples == 37
    assert manifest.spec.table.channels == ("x", "y")
    assert min(manifest.stats.observed) > 30 * 0.6 * OBSERVED[0] * 0.8
