"""DeepSpeed is loaded without MLflow and torch's compiler, both of which work afterwards."""

import importlib
import subprocess
import sys

import pytest
import torch

from launch.job.quick_start import deepspeed_alone
from tests.places import ROOT

CHILD = """
import sys, torch
compiler = torch.compile
import launch.training.engine
assert not {"mlflow", "torch._inductor.compile_fx"} & sys.modules.keys()
assert torch.compile is compiler
import mlflow
"""


@pytest.mark.process
def test_engine_loads_neither_mlflow_nor_compiler():
    subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize("tracker", [None, sys])
def test_patches_end_with_the_context(monkeypatch, tracker):
    if tracker is None:
        monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "mlflow", tracker)
    compiler = torch.compile
    with deepspeed_alone():
        assert torch.compile(len) is torch.compile()(len) is len
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("mlflow")
    assert torch.compile is compiler
    assert sys.modules.get("mlflow") is tracker
