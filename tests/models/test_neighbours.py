"""The observed frames on both sides of a time, against a search by hand."""

import pytest
import torch

from models import timegrid
from models.base import last_observed, next_observed
from models.batch import Batch
from models.gru_ode import Events
from models.vsdn_sde import _next_at_steps

B, T, D = 6, 17, 3


def batch():
    g = torch.Generator().manual_seed(0)
    present = torch.ones(B, T, dtype=torch.bool)
    observed = torch.rand(B, T, generator=g) < torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])[:, None]
    times = torch.rand(B, T, generator=g, dtype=torch.float64).cumsum(1)
    times -= times[:, :1].clone()
    return Batch(
        times, torch.randn(B, T, D, generator=g), present, observed, torch.ones(B), torch.arange(B), tuple("abcdef")
    )


def first(batch, b, frames):
    return next((batch.values[b, t] for t in frames if batch.observed[b, t]), torch.zeros(D))


def test_the_last_observed_frame_is_strictly_before_each_time():
    x = batch()
    for b in range(B):
        for t in range(T):
            assert torch.equal(last_observed(x)[b, t], first(x, b, reversed(range(t))))


@pytest.mark.parametrize("own", [True, False])
def test_the_next_observed_frame_may_be_its_own(own):
    x = batch()
    for b in range(B):
        for t in range(T):
            assert torch.equal(next_observed(x, own=own)[b, t], first(x, b, range(t if own else t + 1, T)))


def test_each_step_of_a_grid_knows_the_frame_that_is_observed_at_its_end_or_after_it():
    x = batch()
    events = Events.of(x)
    clock = x.times.gather(1, events.frame)
    grid = timegrid.build(clock, events.valid, x.times[:, -1], max_step=0.3)
    found = _next_at_steps(events, grid)
    assert found.shape == (grid.dt.shape[1], B, D)
    for b in range(B):
        for m, end in enumerate(grid.end[b].tolist()):
            ended = (
                end >= float(x.times[b, -1]) and float(grid.dt[b, m]) == 0 and int(grid.event[b, m]) == len(clock[b])
            )
            if not ended:  # padding after a sequence's own steps
                assert torch.equal(found[m, b], first(x, b, [t for t in range(T) if x.times[b, t] >= end - 1e-9]))
