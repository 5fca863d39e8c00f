"""Models whose means are differences from observed neighbours, against numpy's interpolation of each channel."""

import numpy as np
import pytest
import torch

from driftwork.errors import DriftworkError
from models import registry
from models.baseline import GruOdeConfig
from models.parts import likelihood_choice
from models.parts.likelihood_choice import likelihood
from models.parts.likelihoods import Marginal
from tests.models import conftest
from tests.models.tables.making import CONFIGS, MARGINAL, D, make_batch, small


def quiet(model):
    """Set all that a trained network adds to the base to 0. The decoder then gives the base plus the first components
    of X."""
    with torch.no_grad():
        for network in (getattr(model, name, None) for name in ("prior_net", "posterior_net")):
            if network is not None:
                network[-1].weight.zero_()
                network[-1].bias.zero_()
        weight = model.decoder.linear.weight
        weight.copy_(torch.where(weight == 1.0, 1.0, 0.0))
        model.decoder.linear.bias.zero_()
    return model.eval()


def by_hand(batch, marginal, read):
    """Return `read(times, known times, known values, time)` of each entry, and the marginal's mean without any known
    value."""
    found = marginal.mean.double().expand_as(batch.values).clone()
    observed = batch.entries_observed
    for b, t, d in np.ndindex(*batch.values.shape):
        at = observed[b, :, d].clone()
        value = read(batch.times[b], at, batch.values[b, :, d], t)
        if value is not None:
            found[b, t, d] = value
    return found


def line(times, at, values, t):
    """Return the straight line between observations at other times."""
    at[t] = False
    return np.interp(times[t], times[at], values[at]) if at.any() else None


def interpolated(times, at, values, t):
    """Return the straight line between observations; an observed entry is itself."""
    return np.interp(times[t], times[at], values[at]) if at.any() else None


def last(times, at, values, t):
    at[t:] = False
    return values[at][-1] if at.any() else None


@pytest.mark.parametrize("form", ["entries", "frames"])
def test_smoother_starts_at_straight_lines(form):
    model, batch, marginal = case("bi_gru_ode from neighbours", form)
    expected = by_hand(batch, marginal, line)
    with torch.no_grad():
        found = quiet(model).interpolate(batch, 1).mean
    assert_same(found, expected, form)


@pytest.mark.parametrize("form", ["entries", "frames"])
@pytest.mark.parametrize("name", ["gru_ode", "vsdn_vae"])
def test_prediction_starts_at_the_last_value(name, form):
    """VSDN's draws come in pairs of opposite noise, whose mean is the base."""
    model, batch, marginal = case(f"{name} from neighbours", form)
    with torch.no_grad():
        found = quiet(model).predict(batch, 2).mean
    assert_same(found, by_hand(batch, marginal, last), form)


@pytest.mark.parametrize("form", ["entries", "frames"])
def test_posterior_starts_at_straight_lines(form):
    """The posterior reads the channels of the same time too, so that an observed entry is its own reconstruction."""
    model, batch, marginal = case("vsdn_vae from neighbours", form)
    with torch.no_grad():
        found = quiet(model).interpolate(batch, 2).mean
    assert_same(found, by_hand(batch, marginal, interpolated), form)


def case(name, form):
    if form == "entries":
        return small(name), make_batch(), MARGINAL
    torch.manual_seed(1)
    marginal = Marginal(torch.full((conftest.D,), 0.3), 0.45)
    config = {**CONFIGS, **conftest.CONFIGS}[name].model_copy(update={"latent": conftest.D})
    model = registry.build_model(config, "gaussian", marginal).double()
    return model, conftest.make_batch(irregular=True), marginal


def assert_same(found, expected, form):
    """The fraction of a line is rounded to single precision: 6e-8 of differences up to some ten standard deviations.
    The first channel of the table is binary and starts at the marginal's probability."""
    if form == "entries":
        torch.testing.assert_close(found[..., 0], torch.full_like(found[..., 0], 0.3), rtol=0, atol=1e-6)
        found, expected = found[..., 1:], expected[..., 1:]
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-8 * 10 * 9)


@pytest.mark.parametrize(("name", "channels"), [(None, {}), ("student_t", {}), (None, {"student_t": ("ph",)})])
def test_location_of_a_channel_moves_its_mean_alone(name, channels):
    chosen = likelihood(name, "gaussian", MARGINAL, False, channels)
    still = torch.zeros(chosen.width)
    places = chosen.locations()
    assert [place >= 0 for place in places] == [False, True, True, True]
    for channel, place in enumerate(places):
        if place >= 0:
            moved = chosen.expectation(torch.zeros(chosen.width).index_fill(0, torch.tensor(place), 1.0))
            expected = torch.where(torch.arange(D) == channel, MARGINAL.scale, 0.0)
            torch.testing.assert_close(moved - chosen.expectation(still), expected, rtol=1e-5, atol=1e-5)


def test_gain_and_shape_are_refused():
    with pytest.raises(ValueError, match=r"from_neighbours=true has no meaning with gain_shape=true; remove one of"):
        GruOdeConfig(name="gru_ode", gain_shape=True, from_neighbours=True)


def test_likelihood_without_locations_is_refused(monkeypatch):
    class Plain:
        width = D

    choice = likelihood_choice.Choice(lambda marginal: Plain(), "gaussian")
    monkeypatch.setitem(likelihood_choice.LIKELIHOODS, "plain", choice)
    config = conftest.CONFIGS["bi_gru_ode from neighbours"].model_copy(update={"likelihood": "plain"})
    with pytest.raises(DriftworkError, match=r"from_neighbours=true: the likelihood Plain has no method locations"):
        registry.build_model(config, "gaussian", Marginal(torch.zeros(D), 1.0))
