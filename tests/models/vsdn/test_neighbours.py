"""The observed frames on both sides of a time, against a search by hand."""

import math

import pytest
import torch

from models.batch import Batch, last_observed, next_observed, time_since, time_until
from models.gru_ode import Events
from models.solvers import timegrid
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


def test_last_observed_frame_matches_search():
    x = batch()
    for b in range(B):
        for t in range(T):
            assert torch.equal(last_observed(x)[b, t], first(x, b, reversed(range(t))))


@pytest.mark.parametrize("own", [True, False])
def test_gaps_reach_neighbours_or_ends(own):
    """Gaps are log(1 + x), with x in units of half a second."""
    x = batch()
    since, until = time_since(x, 0.5), time_until(x, 0.5, own=own)
    for b in range(B):
        for t in range(T):
            before = [n for n in range(t) if x.observed[b, n]] or [0]
            after = [n for n in range(t if own else t + 1, T) if x.observed[b, n]] or [T - 1]
            now, *ends = (float(x.times[b, n]) for n in (t, before[-1], after[0]))
            assert float(since[b, t]) == pytest.approx(math.log(1 + (now - ends[0]) / 0.5), abs=1e-6)
            assert float(until[b, t]) == pytest.approx(math.log(1 + (ends[1] - now) / 0.5), abs=1e-6)


@pytest.mark.parametrize("own", [True, False])
def test_next_observed_frame_matches_search(own):
    x = batch()
    for b in range(B):
        for t in range(T):
            assert torch.equal(next_observed(x, own=own)[b, t], first(x, b, range(t if own else t + 1, T)))


def test_each_step_has_its_next_observation():
    x = batch()
    events = Events.of(x)
    clock = x.times.gather(1, events.frame)
    grid = timegrid.build(clock, events.valid, x.times[:, -1], max_step=0.3)
    found, _, gap = _next_at_steps(events, grid)
    assert found.shape == (grid.dt.shape[1], B, D)
    assert gap.shape == (grid.dt.shape[1], B, 1)
    for b in range(B):
        for m, end in enumerate(grid.end[b].tolist()):
            ended = (
                end >= float(x.times[b, -1]) and float(grid.dt[b, m]) == 0 and int(grid.event[b, m]) == len(clock[b])
            )
            if not ended:  # padding after a sequence's own steps
                assert torch.equal(found[m, b], first(x, b, [t for t in range(T) if x.times[b, t] >= end - 1e-9]))
                following = [x.times[b, t] for t in range(T) if x.observed[b, t] and x.times[b, t] >= end - 1e-9]
                assert float(gap[m, b]) == pytest.approx(float((following or x.times[b, -1:])[0]) - end, abs=1e-9)
