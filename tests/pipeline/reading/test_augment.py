import math

import numpy as np
import pytest
import torch

from driftwork.errors import DriftworkError
from pipeline.observe import ObservationConfig
from pipeline.reading.augment import NO_CHANGE, AugmentConfig, augment, resample
from pipeline.reading.stream import Stream
from pipeline.sequence import DataSpec, Sequence
from tests.datasets import write_films, write_walks

WALKS = DataSpec(dim=2, length=40, interval=0.1, likelihood="gaussian", units="degrees")
ROLLS = DataSpec(dim=40, length=40, interval=0.1, likelihood="bernoulli", units="sounding")
SOUND = DataSpec(dim=8, length=40, interval=0.1, likelihood="gaussian", units="full scale", audio_rate=80)
ALL = ObservationConfig(pattern="regular", ratios=(1.0,))
EPS = float(np.finfo(np.float32).eps)


def sequence(values, mask=None, times=None):
    T = len(values)
    return Sequence(
        "key", "group", 3.0 + 0.1 * np.arange(T) if times is None else times, values,
        np.ones(T, bool) if mask is None else np.array(mask),
    )  # fmt: skip


@pytest.mark.parametrize("speed", [0.8, 0.97, 1.0, 1.1, 1.9])
@pytest.mark.parametrize("first", [0, 7])
def test_straight_lines_are_resampled_exactly(speed, first):
    """Linear interpolation has no error on a function that is linear in time, at any frame distances."""
    rng = np.random.default_rng(0)
    times = 3.0 + np.cumsum(rng.uniform(0.05, 0.15, 40))
    slopes = np.array([2.0, -5.0])
    got = resample(sequence((slopes * times[:, None]).astype(np.float32), times=times), WALKS, speed, first)
    clock = times - times[0]
    if speed == 1.0:  # unchanged frames, at the first times
        wanted = slopes * times[first:, None]
    else:
        asked = clock[first] + speed * clock
        wanted = slopes * (times[0] + asked[asked <= clock[-1]])[:, None]
    np.testing.assert_array_equal(got.times, times[: len(wanted)])
    np.testing.assert_allclose(got.values, wanted, rtol=0, atol=4 * EPS * 5 * times[-1])
    assert got.values.dtype == np.float32
    assert got.mask.all()


def test_sound_is_resampled_sample_by_sample():
    samples = np.arange(40 * 8, dtype=np.float32)
    for speed in (0.9, 1.25):
        got = resample(sequence(samples.reshape(40, 8)), SOUND, speed, first=3)
        count = int((len(samples) - 1 - 24) / speed) + 1
        assert len(got.values) == min(count, len(samples)) // 8
        wanted = 24 + speed * np.arange(got.values.size)
        np.testing.assert_allclose(got.values.ravel(), wanted, rtol=4 * EPS)


def test_binary_frames_take_the_nearest():
    got = resample(sequence(np.eye(40, dtype=bool)), ROLLS, 1.4)
    assert got.values.dtype == np.bool_
    assert got.values.argmax(1).tolist() == [round(1.4 * n) for n in range(28)]
    assert (got.values.sum(1) == 1).all()


def test_missing_neighbour_makes_frame_missing():
    mask = [True] * 40
    mask[12] = False
    got = resample(sequence(np.ones((40, 2), np.float32), mask), WALKS, 1.5)
    assert np.flatnonzero(~got.mask).tolist() == [8]  # 1.5 * 7 = 10.5, 1.5 * 8 = 12, 1.5 * 9 = 13.5
    got = resample(sequence(np.ones((40, 2), np.float32), mask), WALKS, 0.8)
    assert np.flatnonzero(~got.mask).tolist() == [14, 15, 16]  # 11.2, 12, 12.8
    sound = resample(sequence(np.ones((40, 8), np.float32), mask), SOUND, 1.5)
    assert np.flatnonzero(~sound.mask).tolist() == [8]  # made of samples 96 to 107, of frames 12 and 13


def test_draws_follow_the_stated_distributions():
    """Speeds are log-uniform and cuts uniform: Kolmogorov-Smirnov at 1e-6, and a chi-square bound."""
    config, n = AugmentConfig(stretch=0.25, start=4), 4000
    ramp = np.arange(400, dtype=np.float32)[:, None]
    spec = DataSpec(dim=1, length=400, interval=0.1, likelihood="gaussian", units="frames")
    speeds, firsts = [], []
    for seed in range(n):
        got = augment(config, spec, sequence(ramp), seed).values[:, 0]
        speeds.append(float(got[100] - got[0]) / 100)
        firsts.append(round(float(got[0])))
    place = np.sort((np.log(speeds) / math.log(1.25) + 1) / 2)
    distance = max(np.abs(place - np.arange(n) / n).max(), np.abs(place - np.arange(1, n + 1) / n).max())
    assert distance < math.sqrt(math.log(2 / 1e-6) / (2 * n))
    counts = np.bincount(firsts)
    assert len(counts) == 5
    assert (np.square(counts - n / 5) / (n / 5)).sum() < 33.4  # chi-square with 4 degrees of freedom, p = 1e-6


def test_transposition_moves_every_note_alike():
    """All intervals that lose no note are equally likely: chi-square with 8 degrees of freedom at 1e-6."""
    config, n = AugmentConfig(transpose=6), 3600
    roll = np.zeros((5, 40), bool)
    roll[0, 2] = roll[1, 20] = roll[3, [20, 33]] = True  # 2 semitones down and 6 up are free
    moves = np.zeros(9, int)
    for seed in range(n):
        got = augment(config, ROLLS, sequence(roll), seed)
        move = int(got.values[0].argmax()) - 2
        assert got.values.dtype == np.bool_
        np.testing.assert_array_equal(got.values, np.roll(roll, move, 1))
        moves[move + 2] += 1
    assert (np.square(moves - n / 9) / (n / 9)).sum() < 42.8


def test_silence_and_full_range_are_not_transposed():
    for pitches in ([], [0, 39]):
        roll = np.zeros((3, 40), bool)
        roll[:, pitches] = True
        np.testing.assert_array_equal(augment(AugmentConfig(transpose=6), ROLLS, sequence(roll), 1).values, roll)


def test_gain_is_uniform_in_decibels():
    wave = np.random.default_rng(0).normal(0, 0.1, (40, 8)).astype(np.float32)
    n, decibels = 2000, []
    for seed in range(n):
        values = augment(AugmentConfig(gain=6), SOUND, sequence(wave), seed).values
        factor = values[0, 0] / wave[0, 0]
        np.testing.assert_allclose(values, wave * factor, rtol=3 * EPS)
        decibels.append(20 * math.log10(factor))
    place = np.sort((np.array(decibels) / 6 + 1) / 2)
    distance = max(np.abs(place - np.arange(n) / n).max(), np.abs(place - np.arange(1, n + 1) / n).max())
    assert distance < math.sqrt(math.log(2 / 1e-6) / (2 * n))


@pytest.mark.parametrize(("change", "spec"), [({"transpose": 1}, SOUND), ({"gain": 1.0}, ROLLS)])
def test_unsuitable_change_is_refused(change, spec):
    (key,) = change
    with pytest.raises(DriftworkError, match=rf"augment\.{key}=1: shards holds no"):
        AugmentConfig(**change).check(spec, "shards")


def test_short_sequence_keeps_two_frames():
    config = AugmentConfig(start=60)
    for seed in range(50):
        for length in (1, 2, 3):
            got = augment(config, WALKS, sequence(np.ones((length, 2), np.float32)), seed)
            assert min(length, 2) <= len(got.times) == len(got.values) == len(got.mask) <= length


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augment") / "walks"
    return folder, *write_walks(folder, lengths=(20, 14, 17))


CHANGED = AugmentConfig(stretch=0.2, start=5)


def by_key(walks, epoch, world=1, changes=CHANGED, seed=0, workers=0):
    found = {}
    for rank in range(world):
        one = Stream(walks[0], walks[1], "train", ALL, batch_size=3, seed=seed, shuffle=True, rank=rank, world=world,
                     changes=changes, workers=workers)  # fmt: skip
        for batch in one.epoch(epoch):
            for b, key in enumerate(batch.keys):
                n = int(batch.present[b].sum())
                found[key] = batch.values[b, :n].tolist()
    return found


@pytest.mark.process
def test_changes_depend_on_seed_epoch_and_key_alone(walks):
    first = by_key(walks, 4)
    assert first == by_key(walks, 4, world=2) == by_key(walks, 4, world=3, workers=1)
    others = by_key(walks, 5), by_key(walks, 4, seed=1)
    assert all(other[key] != first[key] for other in others for key in first)


def test_no_change_leaves_the_data_alone(walks):
    plain = by_key(walks, 0, changes=NO_CHANGE)
    assert {key: torch.tensor(values) for key, values in plain.items()}.keys() == {
        key for key in walks[2] if walks[2][key].group in ("35_01", "35_02", "35_03")
    }
    for key, values in plain.items():
        np.testing.assert_array_equal(np.float32(values), walks[2][key].values)


def test_pictures_are_not_stretched(tmp_path):
    manifest, _ = write_films(tmp_path)
    with pytest.raises(DriftworkError, match=r"augment\.stretch=0\.1: pictures of"):
        Stream(tmp_path, manifest, "train", ALL, batch_size=2, seed=0, shuffle=True, changes=AugmentConfig(stretch=0.1))
