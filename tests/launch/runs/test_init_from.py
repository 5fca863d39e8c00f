"""Runs that start from the weights of another run."""

import mlflow
import pytest
import torch
from safetensors.torch import load_file

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import train
from launch.runs import run_folder, weights
from launch.runs.config import RunConfig
from launch.training import setup
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_rolls
from tests.places import tiny

TINY = str(tiny("vsdn_vae"))
COMMON = ["data=rolls", "tracking.uri=null", "ranks=1"]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """Provide a run with weights in a working folder with data."""
    write_rolls(tmp_path / "rolls")
    monkeypatch.chdir(tmp_path)
    config = load(RunConfig, TINY, [*COMMON, "train.seed=7", "out=runs/earlier"])
    folder = run_folder.create(config)
    weights.write(run_folder.model_for(config, read_manifest(config.data)).state_dict(), folder)
    return folder


def test_new_run_starts_from_copied_weights(earlier):
    """The earlier run may change or vanish afterwards."""
    with setup.folder_for([TINY, *COMMON, "init_from=runs/earlier", "out=runs/tuned"]) as made:
        folder = made
    expected = load_file(earlier / weights.BEST)
    record = run_folder.record_of(folder)["init_from"]
    assert record["run"] == str(earlier.absolute())
    assert record["sha256"] == weights.sha256(earlier / weights.BEST)
    (earlier / weights.BEST).unlink()
    config = run_folder.config_of(folder)
    model = run_folder.model_for(config, read_manifest(config.data))
    assert not all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())
    weights.load_initial(model, folder)
    assert all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())


def test_weights_of_other_shape_are_named(earlier):
    with pytest.raises(DriftworkError) as refused:
        train.main([TINY, *COMMON, "init_from=runs/earlier", "out=runs/tuned", "model.latent=5"])
    assert "init_from=runs/earlier: its weights do not fit this model and data: " in str(refused.value)
    assert "posterior_net.2.weight is 8x16 in that run and 10x16 in this one" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (earlier.parent / "tuned").exists()


def test_run_without_weights_is_refused(earlier):
    (earlier / weights.BEST).unlink()
    with pytest.raises(DriftworkError, match=r"no best\.safetensors; train the run"):
        train.main([TINY, *COMMON, "init_from=runs/earlier", "out=runs/tuned"])
    assert not (earlier.parent / "tuned").exists()


def test_initial_weights_are_fixed_in_a_run(earlier):
    with pytest.raises(DriftworkError, match="init_from cannot change in a run"):
        train.main([f"resume={earlier}", "init_from=runs/other"])


@pytest.mark.process
def test_training_begins_at_the_weights(earlier, empty_store, tmp_path):
    """Four updates of at most 1e-25 do not change the weights."""
    uri, new = empty_store(tmp_path / "runs/mlflow.db"), ["optim.lr=1e-25", "train.max_epochs=1", "out=runs/tuned"]
    assert train.main([TINY, "data=rolls", "ranks=1", f"tracking.uri={uri}", "init_from=runs/earlier", *new]) == 0
    before, after = (load_file(f"runs/{name}/best.safetensors") for name in ("earlier", "tuned"))
    for name, x in before.items():
        torch.testing.assert_close(after[name], x, rtol=0, atol=4e-25, msg=name)
    record = run_folder.record_of(tmp_path / "runs/tuned")
    tags = mlflow.MlflowClient(uri).get_run(record["run_id"]).data.tags
    assert tags["driftwork.init_from"] == str(earlier.absolute())
    assert tags["driftwork.init_weights"] == record["init_from"]["sha256"]
