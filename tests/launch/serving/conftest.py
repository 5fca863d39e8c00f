"""Runs with the weights that training begins with, and their exported models."""

import sys

import pandas as pd
import pytest
import torch

from launch.serving import export
from tests.datasets import write_rolls, write_walks
from tests.launch.serving.trained import SDE, exported


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_rolls(folder / "rolls", D=16, train=(6,), val=(2,), test=(4,))
    write_walks(folder / "walks")
    return folder


@pytest.fixture(scope="module")
def music(place):
    return exported(place / "music", place / "rolls", "vsdn_vae")


@pytest.fixture(scope="module")
def paths(place):
    return exported(place / "paths", place / "rolls", "vsdn_vae", SDE)


@pytest.fixture(scope="module")
def motion(place):
    return exported(place / "motion", place / "walks", "ode2vae")


@pytest.fixture
def loaded(monkeypatch):
    """Load a run's export by `mlflow.pyfunc.load_model` without unpickling, and return its response to a sequence."""
    from mlflow import pyfunc

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def answer(trained, row, **params):
        (found,) = pyfunc.load_model(str(trained.folder / export.FOLDER)).predict(pd.DataFrame([row]), params=params)
        assert found["times"] == row["ask"]
        return torch.tensor(found["values"])

    return answer
