import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.readers.mocap import KEPT, Mocap, MocapConfig, features, read_mat, restore
from pipeline.readers.skeleton import parse_amc, parse_asf, positions
from pipeline.sequence import Item, UnreadableError
from pipeline.shards.manifest import read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.verify import verify
from tests.datasets import quarantined
from tests.pipeline.readers.acclaim import bone, cmu, walk
from tests.places import ROOT, SAMPLES

CONFIG = ROOT / "configs" / "prepare" / "mocap.yaml"
PUBLISHED, HONEST = MocapConfig(), MocapConfig(protocol="honest")


def trials(folder: Path, numbers: list[int], frames: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "07.asf").write_text(cmu())
    for number in numbers:
        (folder / f"07_{number:02d}.amc").write_text(walk(frames, seed=number))
    return folder


def mat(path: Path, **changed: np.ndarray) -> Path:
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=(count, 12, 50)) for name, count in (("Xtr", 4), ("Xval", 2), ("Xtest", 1))}
    savemat(path, arrays | changed)
    return path


def samples(folder: Path, split: str):
    manifest = read_manifest(folder)
    for shard in manifest.of(split):
        with (folder / shard.file).open("rb") as handle:
            yield from (read_sample(handle, shard, index, manifest.spec) for index in range(shard.samples))


@pytest.fixture
def real() -> Path:
    if not (SAMPLES / "mocap").exists():
        pytest.skip(f"no real motion in {SAMPLES / 'mocap'}; set DRIFTWORK_SAMPLES")
    return SAMPLES / "mocap"


@pytest.fixture
def benchmark(real) -> Path:
    path = SAMPLES / "mocap_benchmark" / "mocap35.mat"
    if not path.exists():
        pytest.skip(f"no {path}; set DRIFTWORK_SAMPLES")
    return path


# the rows of the benchmark file are the trials 01-13, 28-30 and 14-16 in order
ROWS = {n: ("Xtr", n - 1) for n in range(1, 14)} | {n: ("Xval", n - 28) for n in (28, 29, 30)}
ROWS |= {n: ("Xtest", n - 14) for n in (14, 15, 16)}


def test_real_trials_equal_the_published_arrays(real, benchmark):
    reader, compared, late = Mocap(PUBLISHED), [], []
    for item in reader.find(real):
        number = int(item.group.split("_")[1])
        array, row = ROWS[number]
        published = read_mat(benchmark, array)[row]
        skeleton = parse_asf((real / item.files[1]).read_text())
        channels, about = features(parse_amc((real / item.name).read_text(), skeleton), skeleton, PUBLISHED)
        (sequence,) = reader.read(real, item)
        assert np.array_equal(sequence.values, channels.astype(np.float32))
        first = about["first_frame"]
        np.testing.assert_allclose(sequence.times, 0.1 * (first - 1 + np.arange(len(channels))), atol=1e-12)
        if first == 1:
            np.testing.assert_allclose(channels, published, rtol=0, atol=1e-9)
            np.testing.assert_allclose(sequence.values, published, rtol=2**-24, atol=1e-9)
            compared.append(number)
        else:  # the common frames, up to the mean over different frames
            here, there = channels[: 301 - first], published[first - 1 :][: len(channels)]
            np.testing.assert_allclose(here - here.mean(axis=0), there - there.mean(axis=0), rtol=0, atol=1e-9)
            late.append((number, first))
    assert compared == [1, 7, 8, 14, 15, 16, 28, 29]
    assert late == [(2, 20), (5, 10), (9, 10), (10, 10), (11, 16), (12, 20), (13, 80), (30, 160)]


@pytest.mark.parametrize("config", [PUBLISHED, HONEST])
def test_stored_values_restore_the_trial(tmp_path, config):
    (tmp_path / "07.asf").write_text(cmu())
    (tmp_path / "07_03.amc").write_text(walk(40, first=11))
    reader = Mocap(config)
    (sequence,) = reader.read(tmp_path, reader.find(tmp_path)[0])
    skeleton, motion = restore(sequence.values, json.loads(json.dumps(sequence.about)))
    raw = parse_amc(walk(40, first=11), skeleton)
    kept = [skeleton.channels.index(channel) for channel in KEPT]
    others = [index for index in range(62) if index not in kept]
    assert motion.first == raw.first == 11
    np.testing.assert_allclose(motion.values[:, kept], raw.values[:, kept], atol=1e-4)  # the root's steps add up
    np.testing.assert_allclose(motion.values[:, others], np.tile(raw.values[:, others].mean(axis=0), (40, 1)))
    assert positions(skeleton, motion.values).shape == (40, len(skeleton.bones), 3)


def test_trial_is_centred_by_protocol(tmp_path):
    trials(tmp_path, [1], frames=320)
    skeleton = parse_asf(cmu())
    raw = parse_amc(walk(320, seed=1), skeleton)
    kept = [skeleton.channels.index(channel) for channel in KEPT]
    published, about = features(raw, skeleton, PUBLISHED)
    honest, nothing = features(raw, skeleton, HONEST)
    assert published.shape == honest.shape == (300, 50)
    np.testing.assert_allclose(published.mean(axis=0), 1e-5, atol=1e-12)
    assert nothing["mean"] == [0.0] * 50
    np.testing.assert_allclose(published + about["mean"], honest, atol=1e-12)
    assert np.array_equal(honest[:, 3:], raw.values[:300, kept[3:]])
    # the step of the last frame leads to the first frame after the cut
    np.testing.assert_allclose(honest[299, :3], raw.values[300, kept[:3]] - raw.values[299, kept[:3]], atol=1e-12)


def test_short_and_late_trials_keep_their_times(tmp_path):
    """A trial that was cut at its start begins at its own frame number."""
    trials(tmp_path, [])
    (tmp_path / "07_01.amc").write_text(walk(9, first=21))
    reader = Mocap(PUBLISHED)
    (sequence,) = reader.read(tmp_path, reader.find(tmp_path)[0])
    np.testing.assert_allclose(sequence.times, 2.0 + 0.1 * np.arange(9))
    assert np.array_equal(sequence.values[-1, :3], sequence.values[-2, :3]), "a last step is repeated"
    assert sequence.about["first_frame"] == 21
    assert sequence.mask.all()


def test_trials_are_split_by_number(tmp_path):
    trials(tmp_path / "a" / "deep", [1, 16, 17, 28, 30, 31, 34, 35])
    (tmp_path / "WALK_02.AMC").write_text(walk(9))
    (tmp_path / "walk.ASF").write_text(cmu())
    items = Mocap(PUBLISHED).find(tmp_path)
    assert items == sorted(items)
    splits = {item.group: item.split for item in items}
    assert splits == {
        "WALK_02": "train", "07_01": "train", "07_16": "train", "07_17": None, "07_28": "val", "07_30": "val",
        "07_31": "test", "07_34": "test", "07_35": None,
    }  # fmt: skip
    assert all(len(Mocap(PUBLISHED).read(tmp_path, item)) == 1 for item in items if item.split)


BAD = {
    "07_02.amc": ("\r\nrfoot 1 2 3\r\n", "frame 1: joint 'rfoot' has 3 values, not 2"),
    "07_03.amc": ("\r\nrfoot 1 nan\r\n", "frame 1: joint 'rfoot': '1 nan' is not all finite"),
    "07_04.amc": ("\r\ntail 1 2\r\n", "frame 1: joint 'tail' is not in the skeleton"),
    "07_05.amc": ("\r\n", "frame 1: joint 'rfoot' is missing"),
    "07_06.amc": ("\r\nrfoot 1e300 0\r\n", "too large"),
}


@pytest.mark.ray
def test_bad_files_are_quarantined_with_reasons(tmp_path, local_ray):
    raw, out = trials(tmp_path / "raw", [1, 7, 8, 9, 10, 11, 12, 13, 14, 28, 31]), tmp_path / "out"
    for name, (line, _) in BAD.items():
        whole = walk(12, seed=5)
        start = whole.index("\r\nrfoot")
        end = whole.index("\r\n", start + 2) + 2
        (raw / name).write_text(whole[:start] + line + whole[end:])
    expected = {name: reason for name, (_, reason) in BAD.items()}
    (raw / "07_15.amc").write_text(walk(12)[:-60])
    expected["07_15.amc"] = "frame 12, the last, is cut short"
    (raw / "07_20.amc").write_text(walk(12))
    expected["07_20.amc"] = "not NN_MM.amc with MM in 01-16, 28-30 or 31-34"
    (raw / "08_01.amc").write_text(walk(12))
    expected["08_01.amc"] = "its subject's .asf is not in the same folder; add it"
    (raw / "09_01.amc").write_text(walk(12))
    (raw / "09.asf").write_text(cmu().split(":hierarchy")[0])
    expected["09_01.amc"] = "skeleton: no section :hierarchy"
    (raw / "10_01.amc").write_text(walk(12))
    (raw / "10.asf").write_text(cmu().replace(":hierarchy", f"{bone('tail', ['rx'])}:hierarchy\n root tail"))
    expected["10_01.amc"] = "frame 1: joint 'tail' is missing"
    (raw / "11_01.amc").write_text(walk(12).replace("\r\nrhumerus", "\r\ntail 1\r\nrhumerus"))
    (raw / "11.asf").write_text((raw / "10.asf").read_text())
    expected["11_01.amc"] = "skeleton: channel rx of 'tail' is one too many"
    manifest = prepare(load(PrepareConfig, CONFIG, [f"source={raw}", f"out={out}", "max_unreadable=0.6"]))
    reasons = quarantined(out)
    assert reasons.keys() == expected.keys()
    assert all(reason in reasons[name] for name, reason in expected.items()), reasons
    assert (manifest.items, manifest.unreadable) == (22, 11)
    assert [len(list(samples(out, split))) for split in ("train", "val", "test")] == [9, 1, 1]
    assert verify(out).samples == 11


@pytest.mark.ray
def test_prepared_trial_restores_and_has_train_statistics(tmp_path, local_ray):
    """With `protocol=honest` the statistics come from the train split."""
    raw, out = trials(tmp_path / "raw", [1, 2, 28]), tmp_path / "out"
    prepare(load(PrepareConfig, CONFIG, [f"source={raw}", f"out={out}", "dataset.protocol=honest"]))
    train = np.concatenate([sample.values for sample in samples(out, "train")]).astype(np.float64)
    np.testing.assert_allclose(read_manifest(out).stats.mean, train.mean(axis=0), atol=1e-12)
    (sample,) = samples(out, "val")
    (read,) = Mocap(HONEST).read(raw, Mocap(HONEST).find(raw)[2])
    assert sample.about == read.about
    skeleton, motion = restore(sample.values, sample.about)
    kept = [skeleton.channels.index(channel) for channel in KEPT]
    np.testing.assert_allclose(
        motion.values[:, kept], parse_amc(walk(12, seed=28), skeleton).values[:, kept], atol=1e-4
    )


@pytest.mark.ray
def test_authors_file_keeps_its_splits(tmp_path, local_ray):
    (tmp_path / "raw").mkdir()
    path, out = mat(tmp_path / "raw" / "mocap35.mat"), tmp_path / "out"
    prepare(load(PrepareConfig, CONFIG, [f"source={path.parent}", f"out={out}", "dataset.frames=12"]))
    for split, array in (("train", "Xtr"), ("val", "Xval"), ("test", "Xtest")):
        stored = [sample.values for sample in samples(out, split)]
        assert np.array_equal(stored, read_mat(path, array).astype(np.float32))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"Xtr": np.zeros((4, 12, 49))}, "not float64 (trials, frames, 50)"),
        ({"Xtr": np.zeros((4, 50))}, "not float64 (trials, frames, 50)"),
        ({"Xtr": np.zeros((4, 12, 50), np.complex128)}, "not float64"),
        ({"Xtr": np.zeros((4, 11, 50))}, "trials of 11 frames, not frames=12"),
        ({"Xtr": np.full((4, 12, 50), np.nan)}, "holds NaN"),
    ],
)
def test_array_of_wrong_form_is_refused(tmp_path, changed, reason):
    mat(tmp_path / "a.mat", **changed)
    reader = Mocap(MocapConfig(frames=12))
    with pytest.raises(UnreadableError) as caught:
        reader.read(tmp_path, reader.find(tmp_path)[0])
    assert reason in str(caught.value)


def test_damaged_mat_file_is_refused(tmp_path):
    content = mat(tmp_path / "a.mat").read_bytes()
    for wrong in (b"", b"text" * 100, content[:1000], content[: len(content) // 2]):
        (tmp_path / "a.mat").write_bytes(wrong)
        with pytest.raises(UnreadableError) as caught:
            Mocap(MocapConfig(frames=12)).read(tmp_path, Item("a.mat/Xtr", "a", ("a.mat",), "train"))
        assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableError, match="holds no array Xnone"):
        read_mat(mat(tmp_path / "a.mat"), "Xnone")


def test_source_without_motion_is_refused(tmp_path):
    with pytest.raises(DriftworkError, match=r"no .amc or .mat file"):
        Mocap(PUBLISHED).find(tmp_path)
    mat(tmp_path / "a.mat")
    with pytest.raises(DriftworkError, match=r"protocol=honest: the trials of a\.mat are centred"):
        Mocap(HONEST).find(tmp_path)
    trials(tmp_path, [1])
    with pytest.raises(DriftworkError, match=r"holds 07_01.amc and a.mat"):
        Mocap(PUBLISHED).find(tmp_path)
