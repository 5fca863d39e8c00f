"""ODE2VAE and Neural ODE on tables, which forecast from the first frames."""

import pytest
import torch

from driftwork.errors import DriftworkError
from models.batch import Batch
from models.registry import build_model
from tests.models.gradients import assert_all_reached, assert_same_training
from tests.models.tables.making import FORECASTERS, MARGINAL, T, make_batch, small
from tests.models.tables.test_entries import other_values

pytestmark = pytest.mark.parametrize("name", FORECASTERS)


def test_every_parameter_gets_a_gradient(name):
    assert_all_reached(small(name), make_batch(share=0.7))


def test_unobserved_entries_change_nothing(name):
    model, batch = small(name), make_batch()
    changed = other_values(batch, ~batch.observed)
    assert_same_training(model, batch, changed)
    with torch.no_grad():
        for ours, theirs in zip(model.density(batch, 2)[0], model.density(changed, 2)[0], strict=True):
            assert torch.equal(ours, theirs)


def test_forecast_reads_first_frames_alone(name):
    """The forecast reads values, times and masks of the first frames, and nothing of later frames."""
    model, batch = small(name).eval(), make_batch()
    A, at = model.given, torch.arange(T)[:, None]
    with torch.no_grad():
        before = model.forecast(batch, 3).mean
        later = model.forecast(other_values(batch, at >= A), 3).mean
        blind = model.forecast(batch.changed(observed=batch.observed & (at < A)), 3).mean
        assert torch.equal(before, later)
        assert torch.equal(before, blind)
        first = model.forecast(other_values(batch, at < A), 3).mean
        masks = model.forecast(batch.changed(observed=batch.observed & (at != 2)), 3).mean
        others = [first, masks, model.forecast(batch._replace(static=batch.static + 1.0), 3).mean]
    for other in others:
        assert (other != before).any(2).all()


def test_likelihood_counts_observed_entries_alone(name):
    """One more observed entry after the encoded frames adds its density under the same draws."""
    model, batch = small(name).eval(), make_batch(B=1)
    none = batch.observed & (torch.arange(T) < T - 1)[:, None]
    one = none.clone()
    one[0, -1, 2] = True
    with torch.no_grad():
        less, more = (model.density(batch.changed(observed=x), 1)[0].log_likelihood for x in (none, one))
        z, _ = model.draws(batch, range(1))
        parameters = model._decode(z[0], batch.static)
        expected = model.likelihood.log_prob(parameters, batch.values, one & ~none)[:, -1]
    torch.testing.assert_close(more - less, expected, rtol=1e-9, atol=1e-9)


def test_series_may_be_shorter_than_the_window(name):
    """A series of fewer frames than the encoder reads has the encoding of one that is padded."""
    model, batch = small(name).eval(), make_batch()
    few = batch.first(2)
    padded = Batch(
        torch.cat([few.times, few.times[:, -1:], few.times[:, -1:]], 1),
        *(torch.cat([x, torch.zeros_like(x)], 1) for x in (few.values, few.present, few.observed)), *batch[4:],
    )  # fmt: skip
    with torch.no_grad():
        found, expected = model.forecast(few, 2), model.forecast(padded, 2)
    torch.testing.assert_close(found.mean, expected.mean[:, :2], rtol=0, atol=1e-12)
    assert found.predictive.mixture().quantile(0.9).shape == few.values.shape
    assert found.predictive.deviation.isfinite().all()


def test_settings_of_pictures_are_refused(name):
    for update, error in (
        ({"networks": "conv"}, "a row of a table is not a picture"),
        ({"noise": "frame"}, "in scale"),
    ):
        with pytest.raises(DriftworkError, match=error):
            build_model(FORECASTERS[name].model_copy(update=update), "gaussian", MARGINAL)
