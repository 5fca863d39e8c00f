"""Frames at requested times between those of the data, and frames drawn from a model."""

import pytest
import torch
from scipy.stats import kstest

from models.batch import last_observed
from models.generation import BatchAtTimes, ancestral, interpolate_at, times_at_rate
from models.ode2vae import Ode2VaeConfig
from models.parts.likelihoods import Bernoulli, Marginal
from models.predictive import Predictive
from models.registry import build_model
from models.solvers.ode import SolverConfig
from tests.models.conftest import D, make_batch, small


def one(irregular=False, rows=1):
    """Return a sequence of full length, repeated in `rows` rows with their own seeds."""
    batch = make_batch(B=1, irregular=irregular)
    return batch.draws(batch.seed + torch.arange(rows))


def hand(share=0.4, level=0.8):
    """Return a model whose P(Y_n = 1) is `level` where the last frame is 1, and `share` elsewhere."""

    class Sticky(torch.nn.Linear):
        def on_device(self, batch):
            return batch

        def predict(self, batch, samples):
            assert samples == 1
            logits = torch.logit(share + (level - share) * last_observed(batch))
            return Predictive(Bernoulli(Marginal(torch.full((D,), 0.5), 0.5)), lambda _: logits, 1)

    return Sticky(1, 1)


def test_requested_times_reuse_the_data_times():
    """A requested time that is one of the data's is exactly this number."""
    own = torch.arange(7, dtype=torch.float64) * 0.1  # 0.30000000000000004
    assert torch.equal(times_at_rate(own, 10.0), own)
    fine = times_at_rate(own, 40.0)
    assert torch.equal(fine[::4], own)
    torch.testing.assert_close(fine, torch.arange(25, dtype=torch.float64) / 40)
    torch.testing.assert_close(times_at_rate(own, 4.0), torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64))
    uneven = torch.tensor([0.0, 0.31, 0.5], dtype=torch.float64)
    assert times_at_rate(uneven, 10.0).tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("irregular", [False, True])
def test_extended_batch_adds_absent_frames_only(irregular):
    batch = one(irregular, rows=2)
    times = times_at_rate(batch.times[0], 20.0)
    dense, own, requested = BatchAtTimes.of(batch, times)
    assert torch.equal(dense.times[:, own], batch.times)
    assert torch.equal(dense.times[:, requested], times.expand(2, -1))
    assert (dense.times.diff() > 0).all()
    for name in ("values", "present", "observed"):
        assert torch.equal(getattr(dense, name)[:, own], getattr(batch, name))
    assert dense.observed.sum() == batch.observed.sum()
    assert dense.present.sum() == batch.present.sum()


@pytest.mark.parametrize("irregular", [False, True])
def test_finer_interpolation_contains_the_coarse_one(model, irregular):
    batch = one(irregular)
    own = batch.times[0]
    coarse, known = interpolate_at(model, batch, own, samples=2)
    assert torch.equal(known, batch.observed)
    expected = torch.where(batch.observed[..., None], batch.values, model.interpolate(batch, 2).mean)
    assert torch.equal(coarse, expected)
    times = torch.cat([own, (own[1:] + own[:-1]) / 2]).sort().values
    fine, known = interpolate_at(model, batch, times, samples=2)
    assert torch.equal(fine[:, torch.isin(times, own)], coarse)
    assert torch.equal(known[:, torch.isin(times, own)], batch.observed)
    assert not known[:, ~torch.isin(times, own)].any()
    between = fine[:, ~torch.isin(times, own)]
    assert between.isfinite().all()
    assert (between.std(1) > 0).all()


@pytest.mark.parametrize("name", ["gru_ode", "ode_rnn", "bi_gru_ode"])
def test_interpolation_between_frames_reads_the_state(name):
    """A model without a latent gives one result per time, whichever other times are requested."""
    model, batch = small(name), one(irregular=True)
    own = batch.times[0]
    middle = (own[1:] + own[:-1]) / 2
    few, _ = interpolate_at(model, batch, middle[::3], samples=1)
    many, _ = interpolate_at(model, batch, middle, samples=1)
    torch.testing.assert_close(many[:, ::3], few, rtol=0, atol=1e-12)


def test_drawn_frames_read_only_the_past(dynamics):
    """Observed frames are left as they are."""
    batch = one(rows=2)
    given = torch.arange(17) < 8
    batch = batch._replace(observed=batch.present & given)
    with torch.no_grad():
        drawn = ancestral(dynamics, batch, list(range(8, 17, 3)), True, 4)
        future = batch._replace(values=torch.where(given[:, None], batch.values, 1 - batch.values))
        again = ancestral(dynamics, future, list(range(8, 17, 3)), True, 4)
    assert torch.equal(drawn.values[drawn.observed], again.values[again.observed])
    assert torch.equal(drawn.values[:, given], batch.values[:, given])
    assert drawn.observed[0].nonzero()[:, 0].tolist() == [*range(8), 8, 11, 14]
    assert set(drawn.values[drawn.observed].unique().tolist()) <= {0.0, 1.0}


def test_rows_draw_independently_and_repeatably(dynamics):
    batch = one(rows=3)
    batch = batch._replace(observed=torch.zeros_like(batch.observed))
    with torch.no_grad():
        together = ancestral(dynamics, batch, list(range(0, 17, 4)), True, 4).values[:, ::4]
        last = ancestral(dynamics, batch.rows(slice(2, None)), list(range(0, 17, 4)), True, 4)
    assert torch.equal(together[2:], last.values[:, ::4])
    assert (together[0] != together[1]).any()


def test_real_valued_frame_is_its_expectation():
    batch = one()._replace(observed=torch.zeros(1, 17, dtype=torch.bool))
    model = small("gru_ode")
    with torch.no_grad():
        drawn = ancestral(model, batch, [0, 5, 9], False, 4)
        for n, given in ((0, []), (5, [0]), (9, [0, 5])):
            observed = torch.zeros_like(batch.observed)
            observed[:, given] = True
            mean = model.predict(drawn._replace(observed=observed), 1).mean[:, n]
            torch.testing.assert_close(drawn.values[:, n], mean, rtol=0, atol=1e-12)


def test_drawn_frames_follow_the_predictive():
    """A Markov chain with P(1 | 0) = 0.4 and P(1 | 1) = 0.8 is at 1 in 2 / 3 of its steps in the long run."""
    rows = 400
    batch = one(rows=rows)._replace(observed=torch.zeros(rows, 17, dtype=torch.bool))
    y = ancestral(hand(), batch, list(range(17)), True, 4).values
    before, after = y[:, :-1].flatten(), y[:, 1:].flatten()
    for level, share in ((0.0, 0.4), (1.0, 0.8)):
        from_here = after[before == level]
        assert float(from_here.mean()) == pytest.approx(share, abs=4 * (0.25 / len(from_here)) ** 0.5)
    assert float(y[:, 0].mean()) == pytest.approx(0.4, abs=4 * (0.25 / (rows * D)) ** 0.5)
    assert float(y[:, -1].mean()) == pytest.approx(2 / 3, abs=4 * (0.25 / (rows * D)) ** 0.5)


def sharp():
    """Return a VSDN-SDE whose frames are highly informative of its latent."""
    model = small("vsdn_sde")
    with torch.no_grad():
        model.decoder.linear.weight[:, : model.config.latent] *= 20
    return model


def test_next_frame_follows_the_filter():
    """Over rows with their own noise, the frequency of ones is the mean of the filter's predicted probabilities, not
    of those of rollouts."""
    model, rows = sharp(), 800
    batch = one(rows=rows)
    batch = batch._replace(observed=batch.present & (torch.arange(17) < 8))
    with torch.no_grad():
        drawn = ancestral(model, batch, [8], True, 8).values[:, 8]
        expected, rollout = (found.mean[:, 8].mean(0) for found in (model.predict(batch, 8), model.rollout(batch, 8)))
    error = 0.5 / rows**0.5
    assert (abs(drawn.mean(0) - expected) < 5 * error).all()
    assert (abs(rollout - expected) > 5 * error).any()


def test_particle_count_leaves_prior_draws_unbiased():
    """The evidence is unbiased, so frames drawn one after another from S particles have the model's joint distribution
    for any S. One particle is a path of the prior."""
    model, rows = sharp(), 1500
    batch = one(rows=rows)._replace(observed=torch.zeros(rows, 17, dtype=torch.bool))
    moments = []
    for particles in (1, 3):
        batch = batch._replace(seed=batch.seed + 10_000)
        with torch.no_grad():
            y = ancestral(model, batch, [2, 4, 9], True, particles).values
        pairs = torch.cat([y[:, 2], y[:, 9], y[:, 2] * y[:, 4], y[:, 4] * y[:, 9], y[:, 2] * y[:, 9]], 1)
        moments.append(pairs.mean(0))
    assert (abs(moments[0] - moments[1]) < 5 * (2 * 0.25 / rows) ** 0.5).all()


@pytest.fixture
def forecaster():
    torch.manual_seed(1)
    config = Ode2VaeConfig(
        name="ode2vae", latent=2, encoder_width=6, decoder_width=6, field_width=6, solver=SolverConfig(max_step=0.05)
    )
    return build_model(config, "gaussian", Marginal(torch.full((D,), 0.3), 0.45)).double()


def test_forecast_accepts_other_times(forecaster):
    batch = one()
    with torch.no_grad():
        z, mean = forecaster.draws(batch, range(2))
        fine_z, fine = forecaster.draws(batch, range(2), times_at_rate(batch.times[0], 20.0)[None])
    assert fine.shape == (2, 1, 65, D)
    # All times lie on steps of 0.05, so the steps are the same up to rounding of their ends.
    torch.testing.assert_close(fine_z[:, :, ::4], z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fine[:, :, ::4], mean, rtol=1e-9, atol=1e-9)


def test_path_without_observations_starts_from_prior(forecaster):
    times = torch.arange(4, dtype=torch.float64).mul(0.2).expand(500, -1)
    with torch.no_grad():
        z, mean = forecaster.prior_draws(times, torch.arange(500), range(3))
        again, _ = forecaster.prior_draws(times[7:8], torch.tensor([7]), range(1, 2))
    assert mean.shape == (3, 500, 4, D)
    torch.testing.assert_close(again[0, 0], z[1, 7], rtol=1e-12, atol=1e-12)
    assert kstest(z[:, :, 0].flatten().numpy(), "norm").pvalue > 0.01
    assert (z[:, :, 0] != z[:, :, 1]).all()
