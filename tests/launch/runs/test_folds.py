"""Cross-validation in `evaluate` and `compare`; `tests/pipeline/reading/test_folds.py` tests the division itself."""

import json

import pytest
import torch
from safetensors.torch import save_file

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import compare, evaluate
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.runs.weights import BEST
from launch.scoring.results import read_scores
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_walks
from tests.places import tiny

TINY = tiny("ode2vae")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Provide six walks, two of them the test split, and an untrained run of each of three folds."""
    folder = tmp_path_factory.mktemp("folds")
    write_walks(folder / "walks")
    for fold in range(3):
        options = [f"data={folder}/walks", f"out={folder}/{fold}", f"folds={{count: 3, fold: {fold}, with_test: true}}"]
        run = run_folder.create(load(RunConfig, TINY, [*options, "ranks=1"]))
        config = run_folder.config_of(run)
        run_folder.remember(run, manifest=read_manifest(config.data).hash)
        model = run_folder.model_for(config, run_folder.manifest_of(config))
        save_file(model.state_dict(), run / BEST)
        assert evaluate.main([str(run), "split=test"]) == 0
    return folder


def test_fold_is_scored_on_its_part(place):
    keys = [read_scores(place / str(fold), "test")["model"]["forecast"]["17"]["mse"].groups for fold in range(3)]
    assert sorted(sum(keys, ())) == ["35_01", "35_02", "35_28", "35_29", "35_31", "35_32"]
    assert [len(groups) for groups in keys] == [2, 2, 2]


def test_model_uses_statistics_of_its_fold(place):
    means = []
    for fold in range(3):
        config = run_folder.config_of(place / str(fold))
        manifest = run_folder.manifest_of(config)
        means.append(run_folder.model_for(config, manifest).state_dict()["likelihood.mean"])
        assert torch.equal(means[-1], torch.tensor(manifest.stats.mean, dtype=torch.float64).float())
        assert run_folder.marginal(manifest).sequences == 2
    assert not torch.equal(means[0], means[1])


def test_compare_scores_all_parts_together(place, capsys):
    runs = [str(place / str(fold)) for fold in range(3)]
    assert compare.main([*runs, f"out={place / 'cv.md'}"]) == 0
    assert "6 sequences in 6 groups" in (place / "cv.md").read_text()
    with pytest.raises(DriftworkError, match="fold 2 of this cross-validation is missing"):
        compare.main(runs[:2])
    capsys.readouterr()


def test_test_split_is_excluded_by_default(tmp_path):
    """The shard of the test split may even be missing."""
    write_walks(tmp_path / "walks", lengths=(20, 14, 17))
    for shard in (tmp_path / "walks").glob("test-*.tar"):
        shard.unlink()
    config = load(RunConfig, TINY, [f"data={tmp_path}/walks", "folds={count: 3, fold: 1}"])
    manifest = run_folder.manifest_of(config)
    assert sum(shard.samples for shard in manifest.shards) == 6
    assert json.loads(manifest.encode())["spec"] == json.loads(read_manifest(config.data).encode())["spec"]
