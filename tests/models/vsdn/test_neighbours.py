"""The observed frames on both sides of a time, against a search by hand, and how networks read them."""

import math

import pytest
import torch

from models.baseline import GruOdeConfig
from models.batch import Batch, last_observed, next_observed, time_since, time_until
from models.gru_ode import Events
from models.parts.likelihoods import Marginal
from models.registry import build_model
from models.solvers import timegrid
from models.vsdn import VsdnVaeConfig
from models.vsdn_sde import VsdnSdeConfig, _next_at_steps

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
    found, known, gap = _next_at_steps(events, grid)
    assert found.shape == (grid.dt.shape[1], B, D)
    assert torch.equal(found != 0, known.expand_as(found))
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


SEEING = {"see_last": True, "see_next": True, "see_gaps": True}
SIZES = {"latent": 3, "hidden": 6, "width": 8, "depth": 1}
MODELS = {
    "vsdn_vae": VsdnVaeConfig(name="vsdn_vae", **SIZES, **SEEING, held_out_fraction=0.5),
    "vsdn_vae from neighbours": VsdnVaeConfig(name="vsdn_vae", **SIZES, **SEEING, from_neighbours=True),
    "vsdn_sde": VsdnSdeConfig(name="vsdn_sde", **SIZES, **SEEING, held_out_fraction=0.5),
    "gru_ode": GruOdeConfig(name="gru_ode", **SIZES, see_last=True),
    "bi_gru_ode": GruOdeConfig(name="bi_gru_ode", **SIZES, see_last=True),
    "bi_gru_ode from neighbours": GruOdeConfig(name="bi_gru_ode", **SIZES, see_last=True, from_neighbours=True),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_origin_of_units_changes_nothing(config):
    """A model of temperatures has the same loss and predictions in degrees Celsius and in kelvin, also where no frame
    is observed before or after. Values are rounded to 300 eps, 1e-13 in units of the scale, and the loss has some
    hundred terms of condition 10."""
    x, origin, losses, answers = batch(), 273.15, [], []
    x = x._replace(values=x.values.double())
    for moved in (0.0, origin):
        torch.manual_seed(3)
        model = build_model(config, "gaussian", Marginal(torch.full((D,), 0.2).double() + moved, 0.9)).double()
        shifted = x._replace(values=x.values + moved)
        losses.append(model(shifted, 1.0).loss)
        answers.append(model.interpolate(shifted, 2).mean - moved)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-9, atol=1e-9)
