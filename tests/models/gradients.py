"""Gradients of a model's loss, and the properties that every model's gradients have."""

import torch


def gradients(model, batch):
    """Return the objective of a batch, and its gradient for each parameter by name."""
    model.zero_grad(set_to_none=True)
    objective = model(batch, 0.7)
    objective.loss.sum().backward()
    return objective, {name: p.grad for name, p in model.named_parameters()}


def assert_all_reached(model, batch):
    """Assert that every parameter gets a finite gradient that is not 0."""
    for name, gradient in gradients(model, batch)[1].items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


def assert_same_training(model, batch, changed):
    """Assert that loss and gradients of two batches are equal to the last bit."""
    (objective, before), (same, after) = gradients(model, batch), gradients(model, changed)
    assert torch.equal(objective.loss, same.loss)
    for name in before:
        assert torch.equal(before[name], after[name]), name


def with_noise_where_unobserved(batch):
    """Return the batch with noise added to the values of its unobserved frames."""
    noise = torch.where(batch.observed[..., None], 0.0, torch.randn_like(batch.values))
    return batch._replace(values=batch.values + noise)
