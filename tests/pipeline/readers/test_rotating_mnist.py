import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from driftwork.config_base import build, load
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.rotating_mnist import RotatingMnist, RotatingMnistConfig, read_idx, small_digits, turn
from pipeline.sequence import UnreadableError
from pipeline.shards.shard_files import read_sample
from pipeline.shards.verify import verify
from tests.places import ROOT

CONFIG = ROOT / "configs" / "prepare" / "rotating_mnist.yaml"
READER = RotatingMnist(RotatingMnistConfig())


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder: Path, count: int = 60, pack=lambda data: data, suffix: str = "") -> None:
    """Write MNIST files in which picture n has the single grey n, and the label 3 if n is 2, 5, 8, ..."""
    labels = np.arange(count, dtype=np.uint8) % 3 + 1
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 28, 28))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))


def read(reader: RotatingMnist, source: Path | None) -> dict[str, list]:
    """Map each split to its sequences."""
    found: dict[str, list] = {"train": [], "val": [], "test": []}
    for item in reader.find(source):
        found[item.split] += reader.read(source, item)
    return found


def test_quarter_turns_are_exact_and_counter_clockwise():
    picture = np.random.default_rng(0).integers(256, size=(28, 28), dtype=np.uint8)
    for quarters in range(5):
        assert np.array_equal(turn(picture, quarters / 4, box=28), np.rot90(picture, quarters))


def test_rotation_keeps_brightness_and_moves_it():
    y, x = np.indices((28, 28)) - 13.5
    picture = np.rint(255 * np.exp(-((x - 7) ** 2 + y**2) / 6)).astype(np.uint8)  # a spot at the right
    for turns in (0.1, 0.3, 1 / 16, 0.9):
        turned = turn(picture, turns, box=28).astype(float)
        middle = np.array([(turned * x).sum(), (turned * y).sum()]) / turned.sum()
        np.testing.assert_allclose(
            middle, 7 * np.array([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)]), atol=0.05
        )
        assert turned.sum() == pytest.approx(picture.sum(), rel=0.02)


def test_small_picture_is_drawn_in_its_box():
    white = turn(np.full((8, 8), 255, np.uint8), 0, box=20)
    assert white[8:20, 8:20].min() == 255
    assert white[:2].max() == white[:, -2:].max() == 0
    rows = np.flatnonzero(white.max(axis=1) > 127)
    assert (rows[0], rows[-1]) == (4, 23)


def test_scikit_learn_digits_turn_once_around():
    found = read(READER, None)
    assert {split: len(sequences) for split, sequences in found.items()} == {"train": 147, "val": 18, "test": 18}
    keys = [sequence.key for sequences in found.values() for sequence in sequences]
    assert keys == [f"digit-{number:05d}" for number in range(183)]
    sequence = found["test"][0]
    assert sequence.values.shape == (16, 784)
    assert 0.9 < sequence.values.max() <= 1
    frames = sequence.values.reshape(16, 28, 28)
    for k in range(12):  # four frames later, a quarter turn: equal pixels up to the rounding of an angle
        np.testing.assert_allclose(frames[k + 4], np.rot90(frames[k]), atol=1 / 255)
    np.testing.assert_allclose(sequence.times, np.arange(16) / 10)
    assert small_digits().max() == 255


def test_only_later_training_frames_are_missing():
    found = read(READER, None)
    assert all(sequence.mask.all() for split in ("val", "test") for sequence in found[split])
    masks = np.array([sequence.mask for sequence in found["train"]])
    assert (masks.sum(axis=1) == 11).all()
    assert masks[:, 0].all()
    assert masks[:, 1:].mean(axis=0).min() > 0.5, "every other frame is missing somewhere, and mostly there"
    assert masks[:, 1:].all(axis=0).sum() == 0
    assert len(np.unique(masks, axis=0)) > 100
    assert all(not sequence.values[~sequence.mask].any() for sequence in found["train"])
    whole = read(RotatingMnist(RotatingMnistConfig(missing=0)), None)
    for full, cut in zip(whole["train"], found["train"], strict=True):
        assert full.mask.all()
        assert np.array_equal(full.values[cut.mask], cut.values[cut.mask])


def test_seed_determines_angles_and_masks():
    one, same, other = (RotatingMnist(RotatingMnistConfig(seed=seed)) for seed in (0, 0, 1))
    item = one.find(None)[1]
    first, again, changed = (reader.read(None, item)[0] for reader in (one, same, other))
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.values, changed.values)


@pytest.mark.parametrize(("pack", "suffix"), [(lambda data: data, ""), (gzip.compress, ".gz")], ids=["plain", "gz"])
def test_mnist_threes_are_read_at_any_depth(tmp_path, pack, suffix):
    mnist(tmp_path / "MNIST" / "raw", pack=pack, suffix=suffix)
    reader = RotatingMnist(RotatingMnistConfig(missing=0))
    items = reader.find(tmp_path)
    assert items[0].files == (
        f"MNIST/raw/train-images-idx3-ubyte{suffix}", f"MNIST/raw/train-labels-idx1-ubyte{suffix}"
    )  # fmt: skip
    found = read(reader, tmp_path)
    assert {split: len(sequences) for split, sequences in found.items()} == {"train": 16, "val": 2, "test": 2}
    for number, sequence in enumerate(found["train"] + found["val"] + found["test"]):
        assert sequence.key == f"digit-{number:05d}"
        middle = sequence.values.reshape(16, 28, 28)[:, 6:22, 6:22]
        assert np.array_equal(middle, np.full_like(middle, np.float32(3 * number + 2) / np.float32(255)))
    few = RotatingMnist(RotatingMnistConfig(digits=10))
    assert {split: len(sequences) for split, sequences in read(few, tmp_path).items()} == {
        "train": 8,
        "val": 1,
        "test": 1,
    }


BAD = {
    "not a whole header of an IDX file of bytes in 3 dimensions": b"PNG, not IDX",
    "whole header of an IDX file": bytes([0, 0, 8, 3, 0, 0]),
    "holds 47039 bytes, not 47040 as in its header": idx(np.zeros((60, 28, 28), np.uint8))[:-1],
    "holds 47041 bytes, not 47040 as in its header": idx(np.zeros((60, 28, 28), np.uint8)) + b"x",
    "holds 1 bytes, not 79228162458924105385300197375 as in its header": bytes([0, 0, 8, 3])
    + b"\xff\xff\xff\xff" * 3
    + b"x",
    "not 60 pictures of 28 x 28": idx(np.zeros((59, 28, 28), np.uint8)),
}


@pytest.mark.parametrize("reason", BAD)
def test_damaged_idx_file_is_refused(tmp_path, reason):
    mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(BAD[reason])
    item = READER.find(tmp_path)[0]
    with pytest.raises(UnreadableError, match="train-images-idx3-ubyte: ") as caught:
        READER.read(tmp_path, item)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_gzip_file_is_refused(tmp_path):
    whole = gzip.compress(idx(np.zeros(60, np.uint8)))
    for content in (b"text", whole[:-12], whole[:20] + b"\0\0\0\0" + whole[24:], None):
        path = tmp_path / "train-labels-idx1-ubyte.gz"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UnreadableError, match="cannot be read: ") as caught:
            read_idx(path, 1)
        assert str(tmp_path) not in str(caught.value)


def test_source_without_threes_is_refused(tmp_path):
    with pytest.raises(DriftworkError, match="no train-images-idx3-ubyte with train-labels-idx1-ubyte"):
        READER.find(tmp_path)
    mnist(tmp_path, count=8)
    with pytest.raises(DriftworkError, match="holds 2 digits 3, too few"):
        READER.find(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DriftworkError, match="train-labels-idx1-ubyte: not a whole header"):
        READER.find(tmp_path)
    with pytest.raises(DriftworkError, match="no such folder"):
        READER.find(tmp_path / "absent")


@pytest.mark.ray
def test_prepared_digits_keep_their_masks(tmp_path, local_ray):
    out = tmp_path / "out"
    manifest = prepare(load(PrepareConfig, CONFIG, [f"out={out}"]))
    assert [sum(shard.samples for shard in manifest.of(split)) for split in ("train", "val", "test")] == [147, 18, 18]
    assert verify(out).samples == 183
    assert manifest.stats.frames == 147 * 11, "missing frames do not count in the statistics"
    expected = {sequence.key: sequence for sequence in read(READER, None)["train"]}
    shard = manifest.of("train")[0]
    with (out / shard.file).open("rb") as handle:
        for index in (0, shard.samples - 1):
            sample = read_sample(handle, shard, index, manifest.spec)
            assert np.array_equal(sample.mask, expected[sample.key].mask)
            assert np.array_equal(sample.values, expected[sample.key].values)


@pytest.mark.parametrize("wrong", [{"digits": 2}, {"missing": 1}, {"missing": -0.1}, {"angle": 4}])
def test_wrong_setting_is_refused(wrong):
    with pytest.raises(DriftworkError, match=next(iter(wrong))):
        build(RotatingMnistConfig, wrong, where="here")
