"""The report of a non-finite step by a single rank; tests/launch/training/test_resume.py tests two ranks."""

import json

import torch

from launch.runs.distributed import alone
from launch.training import nonfinite
from launch.training.engine import Step
from models.base import Objective, Terms


class Shown:
    keys = ("a", "b")


def step(*loss):
    terms = Terms(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, float("inf")]), torch.tensor([3, 4]))
    return Step(Objective(torch.tensor(loss), terms), applied=False, grad_norm=float("nan"))


def test_nonfinite_step_is_recorded_with_terms(tmp_path):
    assert nonfinite.report(tmp_path, alone(), 7, Shown, step(1.0, float("inf"))) == "loss of rank 0"
    assert nonfinite.report(tmp_path, alone(), 8, Shown, step(1.0, 2.0)) == "gradient of rank 0"
    first, second = map(json.loads, (tmp_path / nonfinite.FILE).read_text().splitlines())
    assert first == {
        "step": 7, "rank": 0, "where": "loss", "keys": ["a", "b"], "loss": [1.0, "inf"],
        "log_likelihood": [-1.0, -2.0], "kl": [0.5, "inf"], "frames": [3, 4],
    }  # fmt: skip
    assert (second["step"], second["where"], second["loss"]) == (8, "gradient", [1.0, 2.0])
