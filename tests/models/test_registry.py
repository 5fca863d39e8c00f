"""What a registered model must keep to, so that it can be trained on several ranks."""

from typing import Literal

import pytest
import torch
from torch import nn

from driftwork.errors import DriftworkError
from driftwork.registry import Named
from models.parts.likelihoods import Marginal
from models.registry import MODELS, build_model


class ScalarConfig(Named):
    name: Literal["scalar"] = "scalar"


class Scalar(nn.Module):
    def __init__(self, config, likelihood, marginal):
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(()))


def test_parameter_without_dimension_is_named(monkeypatch):
    """DeepSpeed would end each rank with a traceback about the view of a tensor."""
    monkeypatch.setattr(MODELS, "make", lambda config, *rest: Scalar(config, *rest))
    with pytest.raises(DriftworkError, match=r"model.name=scalar: parameter rate has no dimension"):
        build_model(ScalarConfig(), "gaussian", Marginal(torch.zeros(2), 1.0))
