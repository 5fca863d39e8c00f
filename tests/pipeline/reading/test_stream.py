import os
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from driftwork.config_base import build
from driftwork.errors import DriftworkError
from pipeline.observe import ObservationConfig, key_seed, mask
from pipeline.reading.stream import Stream
from tests.datasets import write_rolls
from tests.places import ROOT

RANDOM = ObservationConfig(pattern="random", ratios=(0.25, 0.5))
QUARTER = ObservationConfig(pattern="random", ratios=(0.25,))
REGULAR = ObservationConfig(pattern="regular", ratios=(0.25,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write 29 training sequences of 6 to 20 frames in three shards, and none for validation."""
    folder = tmp_path_factory.mktemp("stream")
    manifest, sequences = write_rolls(folder, D=16, val=(), test=())
    return folder, manifest, sequences


def stream(data, rank=0, world=1, batch_size=8, observation=RANDOM, **more):
    options = {"seed": 5, "shuffle": True} | more
    return Stream(data[0], data[1], "train", observation, batch_size=batch_size, rank=rank, world=world, **options)


def shown_of(observation, present, seed):
    return mask(observation, np.arange(float(len(present))), present, seed)


def keys(batch):
    return [key for key, weight in zip(batch.keys, batch.weight, strict=True) if weight > 0]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_each_sequence_once(data, world):
    """Ranks are disjoint and have equally many steps."""
    streams = [list(stream(data, rank, world).epoch(1)) for rank in range(world)]
    assert {len(batches) for batches in streams} == {4}
    seen = [key for batches in streams for batch in batches for key in keys(batch)]
    assert sorted(seen) == sorted(data[2])
    for k in range(4):  # a step has the same sequences with the same weights for any number of ranks
        step = [batches[k] for batches in streams]
        assert len({len(batch.keys) for batch in step}) == 1
        assert {key for batch in step for key in keys(batch)} == set(keys(list(stream(data).epoch(1))[k]))
        means = [float(batch.weight.sum()) for batch in step]
        assert np.mean(means) == pytest.approx(1.0)


@pytest.mark.process
def test_batch_depends_on_seed_epoch_and_manifest(data):
    for a, b in zip(stream(data).epoch(3), stream(data, workers=2).epoch(3), strict=True):
        assert (a.keys, a.groups) == (b.keys, b.groups)
        assert all(torch.equal(x, y) for x, y in zip(a[:6], b[:6], strict=True))
    first = [batch.keys for batch in stream(data).epoch(0)]
    assert first != [batch.keys for batch in stream(data).epoch(1)]
    assert first != [batch.keys for batch in stream(data, seed=6).epoch(0)]


def same(found, expected):
    return len(found) == len(expected) and all(
        a.keys == b.keys and all(torch.equal(x, y) for x, y in zip(a[:6], b[:6], strict=True))
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.process
def test_workers_stay_between_epochs(data):
    """An epoch that ends in the middle, as in an interrupted run, passes no batch on to the next."""
    ours = psutil.Process()
    before = set(ours.children())
    with closing(stream(data, workers=2, keep=True)) as ahead:
        first = next(ahead.epoch(0))
        workers = set(ours.children()) - before
        assert len(workers) == 2
        for epoch, step in ((1, 0), (2, 0), (3, 0), (2, 3), (1, 1)):
            assert same(list(ahead.epoch(epoch, step)), list(stream(data).epoch(epoch, step)))
        assert set(ours.children()) - before == workers
        assert same([first], [next(stream(data).epoch(0))])
        for worker in workers:
            worker.terminate()
        assert same(list(ahead.epoch(3)), list(stream(data).epoch(3)))
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert same(list(ahead.epoch(3)), list(stream(data).epoch(3)))
    ahead.close()


def count_batch(file, batch):
    """Append a character to a file, as the planner of a stream."""
    with file.open("a") as made:
        made.write("x")


@pytest.mark.process
def test_kept_workers_read_on_into_the_next_epoch(data, tmp_path):
    made = tmp_path / "made"
    with closing(stream(data, workers=1, keep=True, planner=partial(count_batch, made))) as ahead:
        assert len(list(ahead.epoch(0))) == ahead.steps
        deadline = time.monotonic() + 60
        while len(made.read_text()) <= ahead.steps:
            assert time.monotonic() < deadline, "no batch of epoch 1 was read before it began"
            time.sleep(0.01)


READER = """
import os, signal, sys, time
from pathlib import Path
from pipeline.observe import ObservationConfig
from pipeline.reading.stream import Stream
from pipeline.shards.manifest import read_manifest
folder = Path(sys.argv[1])
random = ObservationConfig(pattern="random", ratios=(0.25,))
options = {"batch_size": 8, "seed": 0, "shuffle": True, "workers": 1, "keep": sys.argv[2] == "keep"}
batches = Stream(folder, read_manifest(folder), "train", random, **options).epoch(0)
next(batches)
print("reads", flush=True)
"""


def reading(data, then, *arguments):
    """Return the command that reads a batch, then executes a statement, and its environment."""
    return [sys.executable, "-c", READER + then, str(data[0]), *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker notices it only after some seconds")
def test_killed_rank_takes_workers_along(data):
    command, variables = reading(data, "time.sleep(60)", "keep")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=variables) as reader:
        assert reader.stdout.readline() == b"reads\n"
        (worker,) = [x for x in psutil.Process(reader.pid).children() if "resource_tracker" not in str(x.cmdline())]
        reader.kill()
        assert not psutil.wait_procs([worker], timeout=2)[1]


@pytest.mark.process
@pytest.mark.parametrize("kept", ["keep", "each epoch"])
def test_crash_leaves_no_worker_to_wait_for(data, kept):
    """The traceback still refers to the iterator when Python ends."""
    command, variables = reading(data, "raise ArithmeticError", kept)
    ended = subprocess.run(command, env=variables, capture_output=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.endswith(b"ArithmeticError\n")


def test_stream_continues_within_an_epoch(data):
    whole = list(stream(data).epoch(2))
    rest = list(stream(data).epoch(2, first_step=2))
    assert [b.keys for b in rest] == [b.keys for b in whole[2:]]
    assert torch.equal(rest[0].observed, whole[2].observed)


def test_masks_and_seeds_do_not_depend_on_ranks(data):
    def by_key(world):
        found = {}
        for rank in range(world):
            for batch in stream(data, rank, world).epoch(4):
                for b, key in enumerate(batch.keys):
                    found[key] = (batch.observed[b].nonzero().tolist(), int(batch.seed[b]))
        return found

    assert by_key(1) == by_key(3)
    one, other = by_key(1), {}
    for batch in stream(data).epoch(5):
        other |= {key: batch.observed[b].nonzero().tolist() for b, key in enumerate(batch.keys)}
    assert sum(one[key][0] != other[key] for key in one) > 20  # drawn anew each epoch


def test_batch_contains_data_and_zeros(data):
    for batch in stream(data).epoch(0):
        for b, key in enumerate(batch.keys):
            s = data[2][key]
            n = len(s.times)
            assert batch.groups[b] == s.group
            assert torch.equal(batch.present[b, :n], torch.from_numpy(s.mask))
            np.testing.assert_array_equal(batch.values[b, :n][s.mask], s.values[s.mask])
            np.testing.assert_allclose(batch.times[b, :n], s.times - 3.0, atol=1e-12)
            assert not batch.present[b, n:].any()
            assert not batch.values[b][~batch.present[b]].any()
            assert (batch.times[b, n:] == batch.times[b, n - 1]).all()
            assert not (batch.observed[b] & ~batch.present[b]).any()


def test_unshuffled_order_is_the_manifest_order(data):
    found = [key for batch in stream(data, shuffle=False, observation=REGULAR).epoch(0) for key in keys(batch)]
    assert found == sorted(data[2])


def test_random_mask_is_uniform():
    """The number of frames is exact, and each frame is equally likely."""
    present = np.ones(40, bool)
    present[30:] = False
    counts = np.zeros(40)
    for i in range(2000):
        shown = shown_of(QUARTER, present, key_seed("mask", i))
        assert shown.sum() == 8  # round(0.25 * 30), half to even
        counts += shown
    assert not counts[30:].any()
    expected = 2000 * 8 / 30
    assert abs(counts[:30] - expected).max() < 5 * np.sqrt(expected)
    assert not shown_of(QUARTER, np.zeros(5, bool), 1).any()


def test_regular_mask_is_every_nth_frame():
    """Missing frames are skipped."""
    present = np.ones(10, bool)
    present[4] = False
    assert np.flatnonzero(shown_of(REGULAR, present, 0)).tolist() == [0, 8]
    both = ObservationConfig(pattern="regular", ratios=(0.25, 0.5))
    found = {tuple(np.flatnonzero(shown_of(both, present, key_seed(i)))) for i in range(20)}
    assert found == {(0, 8), (0, 2, 6, 8)}  # each of several ratios is drawn


def test_prefix_mask_is_first_frames_and_rest():
    present = np.ones(43, bool)
    present[[1, 5]] = False
    first = ObservationConfig(pattern="prefix", frames=3)
    assert np.flatnonzero(shown_of(first, present, 0)).tolist() == [0, 2]
    assert not shown_of(first, np.zeros(5, bool), 0).any()
    some = ObservationConfig(pattern="prefix", frames=3, ratios=(0.1, 0.5))
    counts, sizes = np.zeros(43), set()
    for i in range(3000):
        shown = shown_of(some, present, key_seed(i))
        assert np.flatnonzero(shown[:3]).tolist() == [0, 2]
        sizes.add(int(shown[3:].sum()))
        counts += shown
    assert sizes == {4, 20}  # round(0.1 * 39) and round(0.5 * 39), half to even
    assert not counts[[1, 5]].any()
    later = np.delete(counts, [0, 1, 2, 5])  # each 3000 times with a chance of 12 / 39 on average
    assert abs(later - 3000 * 12 / 39).max() < 5 * np.sqrt(3000 * 12 / 39)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"pattern": "prefix"}, "frames is the length of a prefix"),
        ({"pattern": "regular", "ratios": [0.5], "frames": 3}, "frames is the length of a prefix"),
        ({"pattern": "random"}, "pattern=random needs at least one ratio"),
        ({"pattern": "regular", "ratios": [0.3]}, "ratio 0.3 is not 1/n"),
    ],
)
def test_incomplete_pattern_is_refused(config, said):
    with pytest.raises(DriftworkError, match=said):
        build(ObservationConfig, config, where="observe")


def test_impossible_streams_are_refused(data):
    with pytest.raises(DriftworkError, match="val split is empty"):
        Stream(data[0], data[1], "val", RANDOM, batch_size=4, seed=0, shuffle=True)
    with pytest.raises(DriftworkError, match="batch_size=2 is smaller than ranks=3"):
        stream(data, rank=0, world=3, batch_size=2)


@pytest.mark.process
def test_plan_survives_a_reading_process(data):
    """A worker moves its tensors to shared memory; the plan still fits the batch that arrives."""
    for batch in stream(data, workers=1, planner=_times_of).epoch(0):
        assert batch.plan is not None
        batch.plan.check(batch)
        assert torch.equal(batch.plan.grids, batch.times)


def _times_of(batch):
    return batch.times.clone()
