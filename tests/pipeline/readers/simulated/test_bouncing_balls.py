import hashlib
from itertools import combinations, pairwise

import numpy as np
import pytest

from driftwork.config_base import build, load
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.simulated import bouncing_balls
from pipeline.readers.simulated.bouncing_balls import (
    BOX,
    RADIUS,
    SPEED,
    BouncingBalls,
    BouncingBallsConfig,
    draw,
    simulate,
)
from pipeline.shards.manifest import read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.verify import verify
from tests.places import ROOT

CONFIG = ROOT / "configs" / "prepare" / "bouncing_balls.yaml"


@pytest.fixture(scope="module")
def films():
    random = np.random.default_rng(0)
    return [simulate(random) for _ in range(200)]


def test_energy_is_conserved_and_equal(films):
    """The bound is that of 10 roundings of a quarter in each of at most 20 collisions, 6e-15."""
    energies = np.array([np.square(film.velocities).sum(axis=(1, 2)) for film in films])
    np.testing.assert_allclose(energies, SPEED**2, rtol=0, atol=1e-14)


def test_collision_conserves_momentum_and_energy(monkeypatch):
    collide, changes = bouncing_balls._Balls._collide, []

    def watched(balls, i, j):
        before = np.array(balls.v)
        collide(balls, i, j)
        after = np.array(balls.v)
        distance = np.linalg.norm(np.subtract(balls.x[i], balls.x[j]))
        changes.append((after.sum(axis=0) - before.sum(axis=0), np.square(after).sum() - np.square(before).sum()))
        assert distance == pytest.approx(2 * RADIUS, abs=1e-12), "they touch, neither sooner nor later"
        assert abs(after - before).max() > 0

    monkeypatch.setattr(bouncing_balls._Balls, "_collide", watched)
    random = np.random.default_rng(1)
    for _ in range(100):
        simulate(random)
    assert len(changes) > 50
    # A velocity is at most 1/2: four roundings of it, and twenty of an energy of 1/4, are below 1e-15.
    assert max(np.abs(momentum).max() for momentum, _ in changes) < 1e-15
    assert max(abs(energy) for _, energy in changes) < 1e-15


def test_balls_stay_in_the_box_and_bounce(films):
    positions = np.array([film.positions for film in films])
    velocities = np.array([film.velocities for film in films])
    assert RADIUS - 1e-12 <= positions.min() < RADIUS + 0.1
    assert BOX - RADIUS - 0.1 < positions.max() <= BOX - RADIUS + 1e-12
    for i, j in combinations(range(3), 2):
        assert np.linalg.norm(positions[:, :, i] - positions[:, :, j], axis=-1).min() >= 2 * RADIUS - 1e-12
    assert (np.abs(np.diff(velocities, axis=1)).max(axis=(1, 2, 3)) > 0).mean() > 0.5, "most films have a collision"
    straight = np.abs(np.diff(velocities, axis=1)).max(axis=(2, 3)) == 0
    np.testing.assert_allclose(np.diff(positions, axis=1)[straight], velocities[:, :-1][straight], atol=1e-12)


def test_film_is_reversible_and_independent_of_steps(films):
    """A film run backwards, or in smaller steps, takes the same path."""
    for film in films[:50]:
        balls = bouncing_balls._Balls(film.positions[-1].tolist(), (-film.velocities[-1]).tolist())
        for _ in range(4 * 19):
            balls.advance(0.25)
        np.testing.assert_allclose(balls.x, film.positions[0], atol=1e-6)  # each collision doubles an error
        np.testing.assert_allclose(balls.v, -film.velocities[0], atol=1e-6)


def test_head_on_collision_matches_hand_calculation():
    # 2.9 apart in the middle of the box, closing by 1 a frame: they touch after half a frame and swap velocities
    balls = bouncing_balls._Balls([[3.0, 5.0], [5.9, 5.0], [5.0, 1.2]], [[0.75, 0.1], [-0.25, 0.0], [0.0, 0.0]])
    balls.v[0][1] = 0.0
    balls.advance(1.0)
    np.testing.assert_allclose(balls.v, [[-0.25, 0], [0.75, 0], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(balls.x, [[3.375 - 0.125, 5], [5.775 + 0.375, 5], [5, 1.2]], atol=1e-15)


def test_picture_shows_soft_discs():
    pictures = draw(np.array([[[2.0, 3.0], [8.0, 3.0], [5.0, 8.0]]]))
    assert pictures.shape == (1, 32, 32)
    bright = pictures[0] / 255
    y, x = (np.indices((32, 32)) + 0.5) * BOX / 32
    distance = np.min([np.hypot(x - a, y - b) for a, b in ((2, 3), (8, 3), (5, 8))], axis=0)
    assert bright[distance < 0.7].min() > 0.98
    assert bright[distance > 1.6].max() < 0.01
    np.testing.assert_allclose(bright, np.exp(-((distance / RADIUS) ** 8)), atol=0.5 / 255 + 1e-9)


def test_film_bytes_are_reproducible():
    reader = BouncingBalls(BouncingBallsConfig())
    items = reader.find(None)
    assert len(items) == 600
    assert items == sorted(items)
    (first,) = reader.read(None, items[100])
    assert first.values.shape == (20, 1024)
    assert (first.values.dtype, first.values.min(), first.values.max()) == (np.float32, 0, 1)
    digest = hashlib.sha256(b"".join(reader.read(None, item)[0].values.tobytes() for item in items[:50])).hexdigest()
    assert digest[:16] == "ba632f61ef3adadb"
    films = [reader.read(None, item)[0].values for item in (items[0], items[50], items[100], items[101])]
    other = BouncingBalls(BouncingBallsConfig(seed=1)).read(None, items[0])[0].values
    assert all(not np.array_equal(one, two) for one, two in pairwise([*films, other, films[0]]))


@pytest.mark.ray
def test_films_need_no_source(tmp_path, local_ray):
    out = tmp_path / "out"
    sizes = ["dataset.train=30", "dataset.val=4", "dataset.test=3", "files_per_shard=16"]
    manifest = prepare(load(PrepareConfig, CONFIG, [f"out={out}", *sizes]))
    assert [sum(shard.samples for shard in manifest.of(split)) for split in ("train", "val", "test")] == [30, 4, 3]
    assert verify(out).samples == 37
    assert read_manifest(out).spec.image == (32, 32)
    shard = manifest.of("val")[0]
    with (out / shard.file).open("rb") as handle:
        sample = read_sample(handle, shard, 0, manifest.spec)
    reader = BouncingBalls(BouncingBallsConfig())
    item = next(item for item in reader.find(None) if item.name == sample.key)
    assert np.array_equal(sample.values, reader.read(None, item)[0].values)
    assert shard.bytes < 4 * 26_000, "a pixel is a byte"
    assert "a picture of 32 x 32" in (out / "DATACARD.md").read_text()


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": -1}, {"seed": -1}, {"balls": 4}])
def test_wrong_size_is_refused(wrong):
    with pytest.raises(DriftworkError, match=next(iter(wrong))):
        build(BouncingBallsConfig, wrong, where="here")
