"""Devices that an evaluation uses."""

import pytest
import torch

from driftwork.config_base import load
from launch.evaluation import evaluate
from launch.job import launcher
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import set_tf32
from tests.datasets import write_rolls
from tests.places import tiny


@pytest.mark.parametrize(
    ("gpus", "asked", "batch", "ranks"),
    [(0, {}, 8, 1), (1, {}, 8, 1), (4, {}, 8, 4), (4, {"ranks": 2}, 8, 2), (4, {}, 3, 3)],
)
def test_evaluation_takes_all_gpus(tmp_path, monkeypatch, gpus, asked, batch, ranks):
    """All GPUs are used unless a number of ranks is given, or a batch has fewer sequences."""
    write_rolls(tmp_path / "rolls")
    overrides = [f"data={tmp_path / 'rolls'}", f"out={tmp_path / 'run'}", f"evaluate.batch_size={batch}", "ranks=1"]
    folder = run_folder.create(load(RunConfig, tiny("vsdn_vae"), [*overrides, "tracking.uri=null"]))
    started = []
    monkeypatch.setattr(launcher, "gpus", lambda: gpus)
    monkeypatch.setattr(launcher, "check_ranks", lambda ranks: None)
    monkeypatch.setattr(launcher, "start", lambda module, arguments, ranks, stdout: started.append(ranks) or 0)
    monkeypatch.setattr(evaluate, "_score", lambda *arguments: started.append(1))
    evaluate.evaluate(folder, evaluate.EvaluateConfig(**asked))
    assert started == [ranks]


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_set_for_products_and_convolutions(allowed):
    try:
        set_tf32(allowed)
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
    finally:
        set_tf32(False)
