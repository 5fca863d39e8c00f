import numpy as np
import pytest

from driftwork.config_base import build
from driftwork.errors import DriftworkError
from pipeline.observe import ObservationConfig
from pipeline.reading.folds import FoldConfig, divide
from pipeline.reading.stream import Stream
from pipeline.split import position
from tests.datasets import write_rolls

ALL = ObservationConfig(pattern="regular", ratios=(1.0,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    manifest, sequences = write_rolls(folder, D=16)
    return folder, manifest, sequences


def read(folder, manifest, split):
    """Map keys to the sequences of a split, as a stream reads them."""
    stream = Stream(folder, manifest, split, ALL, batch_size=4, seed=0, shuffle=False)
    return {s.key: s for s in map(stream.dataset.read, range(stream.samples))}


@pytest.mark.parametrize("with_test", [False, True])
def test_each_sequence_is_tested_once(data, with_test):
    folder, manifest, sequences = data
    wanted = {key for key in sequences if with_test or not key.startswith("test")}
    tested = []
    for fold in range(5):
        divided = divide(folder, manifest, FoldConfig(count=5, fold=fold, with_test=with_test))
        by_split = {split: read(folder, divided, split) for split in ("train", "val", "test")}
        groups = [{s.group for s in found.values()} for found in by_split.values()]
        assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
        assert set().union(*by_split.values()) == wanted
        for key, s in (by_split["train"] | by_split["val"] | by_split["test"]).items():
            np.testing.assert_array_equal(s.values[s.mask], sequences[key].values[s.mask])
            np.testing.assert_array_equal(s.times, sequences[key].times)
        tested += by_split["test"]
        after = divide(folder, manifest, FoldConfig(count=5, fold=(fold + 1) % 5, with_test=with_test))
        assert by_split["val"].keys() == read(folder, after, "test").keys()
    assert sorted(tested) == sorted(wanted)


def test_groups_are_divided_by_hash(data):
    folder, manifest, sequences = data
    groups = sorted({s.group for key, s in sequences.items() if not key.startswith("test")}, key=position)
    divided = divide(folder, manifest, FoldConfig(count=3, fold=1))
    assert {s.group for s in read(folder, divided, "test").values()} == set(groups[1::3])


def test_fold_statistics_use_its_train_split(data):
    folder, manifest, _ = data
    divided = divide(folder, manifest, FoldConfig(count=4, fold=2))
    frames = np.concatenate([s.values[s.mask] for s in read(folder, divided, "train").values()]).astype(float)
    assert divided.stats.frames == len(frames)
    np.testing.assert_allclose(divided.stats.mean, frames.mean(0), atol=1e-12)
    np.testing.assert_allclose(divided.stats.scale, frames.std(0), atol=1e-12)
    assert divided.hash != manifest.hash
    assert divide(folder, manifest, FoldConfig(count=4, fold=2)).hash == divided.hash  # though manifest.hash was read


def test_impossible_folds_are_refused(data):
    folder, manifest, _ = data
    with pytest.raises(DriftworkError, match=r"folds\.count=100: .* has only 18 groups; lower"):
        divide(folder, manifest, FoldConfig(count=100))
    with pytest.raises(DriftworkError, match="fold=3: 3 parts are numbered 0 to 2"):
        build(FoldConfig, {"count": 3, "fold": 3}, where="folds")
