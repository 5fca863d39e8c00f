"""Observation patterns of entries, gaps and beginnings: exact counts, and agreement with masks of frames."""

import numpy as np
import pytest
import torch

from driftwork.errors import DriftworkError
from pipeline.observe import ObservationConfig, key_seed, mask
from pipeline.reading.stream import Stream
from tests.datasets import write_rolls, write_table

T, D = 20, 6
TIMES = np.cumsum(np.random.default_rng(3).uniform(0.1, 2.0, T))
SEEDS = [key_seed("mask", i) for i in range(200)]
PATTERNS = [
    ObservationConfig(pattern="random", ratios=(0.25, 0.5)),
    ObservationConfig(pattern="regular", ratios=(0.25,)),
    ObservationConfig(pattern="prefix", frames=3, ratios=(0.5,)),
    ObservationConfig(pattern="prefix", seconds=4.5),
    ObservationConfig(pattern="prefix", fraction=0.4),
    ObservationConfig(pattern="block", ratios=(0.6,)),
]


def holes(seed=0):
    """Return a mask of entries in which frame 4 and channel 2 have none."""
    present = np.random.default_rng(seed).random((T, D)) < 0.5
    present[4], present[:, 2] = False, False
    return present


@pytest.mark.parametrize("observation", PATTERNS)
def test_frames_and_entries_agree_if_observed_together(observation):
    frames = np.random.default_rng(1).random(T) < 0.8
    together = np.repeat(frames[:, None], D, 1)
    for seed in SEEDS[:20]:
        by_frame = mask(observation, TIMES, frames, seed)
        assert by_frame.any()
        assert np.array_equal(mask(observation, TIMES, together, seed), np.repeat(by_frame[:, None], D, 1))


@pytest.mark.parametrize("observation", PATTERNS)
def test_observed_frame_has_all_its_entries(observation):
    present = holes()
    for seed in SEEDS[:20]:
        shown = mask(observation, TIMES, present, seed)
        assert np.array_equal(shown, present & shown.any(1)[:, None])


def test_random_entries_are_uniform():
    present, counts = holes(), np.zeros((T, D))
    quarter = ObservationConfig(pattern="entries", ratios=(0.25,))
    for i in range(2000):
        shown = mask(quarter, TIMES, present, key_seed(i))
        assert shown.sum() == round(0.25 * present.sum())
        assert not (shown & ~present).any()
        counts += shown
    expected = 2000 * round(0.25 * present.sum()) / present.sum()
    assert abs(counts[present] - expected).max() < 5 * np.sqrt(expected)


def test_one_entry_is_observed_at_least():
    few = ObservationConfig(pattern="entries", ratios=(0.01,))
    assert mask(few, TIMES, holes(), 1).sum() == 1
    assert not mask(few, TIMES, np.zeros((T, D), bool), 1).any()


def test_random_channels_are_whole():
    present, seen = holes(), set()
    for seed in SEEDS:
        shown = mask(ObservationConfig(pattern="channels", ratios=(0.4,)), TIMES, present, seed)
        channels = np.flatnonzero(shown.any(0))
        assert len(channels) == 2  # round(0.4 * 5): channel 2 has no entries
        assert np.array_equal(shown[:, channels], present[:, channels])
        seen |= set(channels.tolist())
    assert seen == {0, 1, 3, 4, 5}


def test_gap_has_its_share_of_the_duration():
    times = np.linspace(0, 50, 1001)
    starts = []
    for seed in SEEDS:
        shown = mask(ObservationConfig(pattern="block", ratios=(0.7,)), times, np.ones(1001, bool), seed)
        gap = np.flatnonzero(~shown)
        assert np.array_equal(gap, np.arange(gap[0], gap[-1] + 1))
        assert len(gap) in (300, 301)  # 15 s at 20 a second, open at one end
        starts.append(times[gap[0]])
    assert min(starts) < 3
    assert max(starts) > 32  # places from 0 to 35 s


def test_gap_over_everything_leaves_first_frame():
    block = ObservationConfig(pattern="block", ratios=(0.01,))
    assert np.flatnonzero(mask(block, np.zeros(1), np.ones(1, bool), 0)).tolist() == [0]
    present = np.array([False, True, True, False])
    found = [mask(block, np.array([0.0, 5.0, 5.1, 10.0]), present, seed) for seed in SEEDS]
    assert min(int(shown.sum()) for shown in found) == 1


def test_prefix_ends_at_its_time():
    """The prefix contains the first frame in any case, and excludes its end."""
    times, present = np.array([3.0, 4.0, 4.5, 9.0, 13.0]), np.ones(5, bool)
    for length, count in (
        ({"seconds": 1.5}, 2),
        ({"seconds": 1.51}, 3),
        ({"fraction": 0.6}, 3),
        ({"fraction": 0.01}, 1),
    ):
        shown = mask(ObservationConfig(pattern="prefix", **length), times, present, 0)
        assert np.flatnonzero(shown).tolist() == list(range(count))
    assert list(ObservationConfig(pattern="prefix", fraction=0.6).each(99)) == ["60"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pattern": "prefix"}, "frames is the length of a prefix"),
        ({"pattern": "random", "ratios": (0.5,), "seconds": 2}, "seconds is the length of a prefix"),
        ({"pattern": "prefix", "frames": 2, "fraction": 0.5}, "frames and fraction are two lengths"),
        ({"pattern": "entries"}, "needs at least one ratio"),
    ],
)
def test_contradicting_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ObservationConfig(**settings)


def stream(folder, manifest, pattern, **more):
    observation = ObservationConfig(pattern=pattern, ratios=(0.5,))
    return Stream(folder, manifest, "train", observation, batch_size=4, seed=5, shuffle=False, **more)


def test_table_makes_batches_of_entries(tmp_path):
    manifest, written = write_table(tmp_path)
    (batch,) = stream(tmp_path, manifest, "entries").epoch(0)
    assert batch.entries
    for b, key in enumerate(batch.keys):
        n = len(written[key].times)
        assert np.array_equal(batch.present[b, :n], written[key].mask)
        assert np.array_equal(batch.values[b, :n], np.where(written[key].mask, written[key].values, 0))
        assert int(batch.observed[b].sum()) == max(1, round(0.5 * written[key].mask.sum()))
    assert not (batch.observed & ~batch.present).any()
    assert torch.equal(batch.frames_present, batch.present.any(2))
    (again,) = stream(tmp_path, manifest, "entries").epoch(1)
    assert not torch.equal(batch.observed, again.observed)  # drawn anew each epoch


def test_pattern_of_entries_needs_a_table(tmp_path):
    manifest, _ = write_rolls(tmp_path)
    for pattern in ("entries", "channels"):
        with pytest.raises(DriftworkError, match=f"pattern={pattern}: masks of .* are of whole frames"):
            stream(tmp_path, manifest, pattern)
    assert not next(stream(tmp_path, manifest, "block").epoch(0)).entries
