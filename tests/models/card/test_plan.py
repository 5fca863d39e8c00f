"""Grids that the loader computes, against those that a model computes itself."""

import re
from pathlib import Path

import pytest
import torch

from tests.models.card.pretended_card import CASES, case

MODELS = [name for name in CASES if name != "ode2vae of images"]


def result(model, batch):
    """Return the loss and the gradients of a training step."""
    model.zero_grad(set_to_none=True)
    loss = model(batch, 0.7).loss
    loss.sum().backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
def test_planned_batch_changes_no_bit(name):
    model, batch = case(name)
    planned = batch.planned(model.planner())
    assert planned.plan is not None
    for x, y in zip(result(model, planned), result(model, batch), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", MODELS)
def test_padded_grids_leave_values(name, monkeypatch):
    """Steps and events are padded to multiples of 16, as on a GPU. Sums get longer by zeros, which may be added in
    another order, so that only rounding differs.
    """
    model, batch = case(name)
    model, batch = model.double(), batch.double()
    expected = result(model, batch)
    monkeypatch.setattr(type(model), "multiple", lambda self: 16)
    planned = batch.planned(model.planner())
    grids = planned.plan.grids
    assert getattr(grids, "steps", grids).dt.shape[1] % 16 == 0
    for x, y in zip(result(model, planned), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


def test_changed_batch_has_no_plan():
    model, batch = case("gru_ode")
    batch = batch.planned(model.planner())
    assert batch.first(5).plan is None
    assert batch.rows(slice(1)).plan is None
    assert batch.changed(observed=batch.present).plan is None
    stale = batch._replace(observed=batch.present)
    with pytest.raises(AssertionError, match=r"Batch\.changed"):
        model(stale, 1.0)


def test_masks_are_changed_through_one_method():
    """`_replace` would keep the plan, which a GPU cannot check."""
    root, change = Path(__file__).parents[3], re.compile(r"batch\._replace\(\s*(?:\w+=[^\n]*)?(?:observed|times)=")
    files = [path for package in ("models", "launch", "pipeline") for path in (root / package).rglob("*.py")]
    assert [path for path in files if change.search(path.read_text())] == []
    assert change.search("batch._replace(values=x, observed=y)")
