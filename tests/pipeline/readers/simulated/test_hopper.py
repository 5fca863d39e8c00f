"""The hopper data set, on a stand-in for MuJoCo and, if it is installed, on MuJoCo itself."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from driftwork.config_base import build, load
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.simulated import hopper
from pipeline.readers.simulated.hopper import LEAST, MOST, Hopper, HopperConfig
from pipeline.shards.verify import verify
from tests.places import ROOT

CONFIG = ROOT / "configs" / "prepare" / "hopper.yaml"


class Flight:
    """A body that flies on with the velocities of its start."""

    def __init__(self):
        self.data = SimpleNamespace(qpos=np.zeros(7), qvel=np.zeros(7))

    def reset_context(self):
        return nullcontext()

    def step(self):
        self.data.qpos += 0.005 * self.data.qvel


@pytest.fixture
def flight(monkeypatch):
    monkeypatch.setattr(hopper, "_physics", Flight)


def test_window_is_a_part_of_the_whole_fall(flight):
    """The start is drawn as published, and a window is the same fall from a later frame on."""
    (whole,) = Hopper(HopperConfig(frames=200)).read(None, Hopper(HopperConfig()).find(None)[0])
    item = Hopper(HopperConfig()).find(None)[0]
    (window,) = Hopper(HopperConfig(frames=60)).read(None, item)
    assert (window.values.shape, window.values.dtype) == ((60, 14), np.float32)
    at = [n for n in range(141) if np.array_equal(whole.values[n : n + 60], window.values)]
    assert len(at) == 1
    assert at[0] > 0
    start = whole.values[0] * MOST + LEAST
    assert (start[:2] >= 0).all()
    assert (start[:2] <= 0.5).all()
    assert (np.abs(start[2:7]) <= 2).all()
    assert (np.abs(start[7:]) <= 5).all()
    assert np.abs(start).max() > 2


def test_shards_hold_every_split(tmp_path, flight, without_ray):
    sizes = ["dataset.train=30", "dataset.val=4", "dataset.test=3", "files_per_shard=16"]
    manifest = prepare(load(PrepareConfig, CONFIG, [f"out={tmp_path / 'out'}", *sizes]))
    assert [sum(shard.samples for shard in manifest.of(split)) for split in ("train", "val", "test")] == [30, 4, 3]
    assert verify(tmp_path / "out").samples == 37
    assert (manifest.spec.dim, manifest.spec.length, manifest.spec.kind) == (14, 100, None)


def test_missing_package_is_one_line(monkeypatch):
    hopper._physics.cache_clear()
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(DriftworkError, match=r"^dm_control is not installed; run pip install -e '\.\[hopper\]'$"):
        hopper._physics()


def test_window_longer_than_the_fall_is_refused():
    with pytest.raises(DriftworkError, match="frames"):
        build(HopperConfig, {"frames": 201}, where="here")


def test_real_body_falls_the_same_way_twice():
    pytest.importorskip("dm_control")
    reader = Hopper(HopperConfig(frames=200))
    items = reader.find(None)[:3]
    first = [reader.read(None, item)[0].values for item in items]
    again = [reader.read(None, item)[0].values for item in reversed(items)]
    assert all(np.array_equal(one, other) for one, other in zip(first, reversed(again), strict=True))
    height = np.stack(first)[..., 1] * MOST[1] + LEAST[1]
    assert (height[:, -1] < height.max(1)).all()
