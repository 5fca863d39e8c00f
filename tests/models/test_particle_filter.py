"""The particle filter of VSDN-SDE against a Kalman filter and plain averages, and its invariances."""

import math

import pytest
import torch

from models.batch import Batch
from models.particle_filter import systematic
from tests.models.conftest import CONFIGS, make_batch, small
from tests.models.linear_gaussian import LinearGaussian

SDE = [name for name in CONFIGS if name.startswith("vsdn_sde")]


@pytest.fixture(scope="module")
def problem():
    """Return a problem whose posterior drift is close enough to the prior's that not all weights vanish."""
    problem = LinearGaussian()
    with torch.no_grad():
        problem.model.drifts.posterior.mul_(0.1)
        problem.model.drifts.posterior_bias.mul_(0.1)
    return problem


@torch.no_grad()
def filtered(problem, particles, rows):
    """Return mean and variance of every frame [B, rows, T, D] and log evidence [B, rows]; each row has its own
    noise."""
    found = problem.model.filter(problem.draws(rows), particles)
    B, T, D = problem.batch.values.shape
    w, means, stds = found.predictive.mixture()
    mean = (w[..., None] * means).sum(0)
    variance = (w[..., None] * (means.square() + stds.square())).sum(0) - mean.square()
    return mean.view(B, rows, T, D), variance.view(B, rows, T, D), found.log_evidence.view(B, rows)


def test_moments_and_evidence_match_kalman_filter(problem):
    """Means over independent filters are compared. The bias of one filter is of order 1 / particles, the standard error
    of 20 of order 1 / sqrt(20 particles): with 1000 particles the bias is a seventh of the standard error."""
    rows = 20
    found = filtered(problem, 1000, rows)
    for x, exact in zip(found, (*problem.kalman(), problem.exact()), strict=True):
        assert (abs(x.mean(1) - exact) < 5 * x.std(1) / rows**0.5 + 1e-9).all()
    mean, variance = problem.kalman()
    spread = (variance - problem.std**2).sqrt()  # of the state, in units of the observations
    assert (found[0].std(1) <= 0.2 * spread).all()
    assert float(mean.std()) > 5 * float(found[0].std(1).max())


def test_error_falls_with_the_root_of_the_particles(problem):
    """The slope of log RMSE over log S, for S = 16, 64, 256, is -1/2.

    A mean square over n independent rows has a relative standard deviation of about sqrt(2 / n), the logarithm of its
    root one of 1 / sqrt(2 n); the slope between two ends log 16 apart has sqrt(2) / log 16 of that. A bias of order
    1 / S adds a part of order 1 / S to the square, and to the slope at most 0.5 log(1 + 1 / 16) / log 16.
    """
    rows, exact_mean, exact, errors = 100, problem.kalman()[0], problem.exact(), []
    for S in (16, 64, 256):
        mean, _, evidence = filtered(problem, S, rows)
        gaps = mean - exact_mean[:, None], evidence - exact[:, None]
        errors.append(torch.stack([gap.square().mean().sqrt() for gap in gaps]))
    slopes = (errors[2].log() - errors[0].log()) / math.log(16)
    assert (abs(slopes + 0.5) < (5 / rows**0.5 + 0.5 * math.log1p(1 / 16)) / math.log(16)).all()
    assert (errors[0] > errors[1]).all()
    assert (errors[1] > errors[2]).all()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("particles", "rows"), [(8, 600), (16, 400)])
def test_evidence_is_unbiased(problem, particles, rows, guided):
    """The mean of the exponential of the log evidence is the likelihood, for any number of particles and with either
    drift."""
    model, batch = problem.model, problem.draws(rows)
    found = model.log_evidence(batch, particles) if guided else model.filter(batch, particles).log_evidence
    ratio = (found.view(-1, rows) - problem.exact()[:, None]).exp()
    assert (abs(ratio.mean(1) - 1) < 5 * ratio.std(1) / rows**0.5).all()
    assert (ratio.std(1) / rows**0.5 < 0.1).all()
    assert not torch.equal(model.log_evidence(batch, particles), model.filter(batch, particles).log_evidence)


@pytest.mark.parametrize("name", SDE)
@pytest.mark.parametrize("irregular", [False, True])
def test_one_guided_particle_gives_iwae_weight(name, irregular):
    """Without resampling the evidence is the IWAE bound with one draw."""
    model, batch = small(name), make_batch(irregular=irregular)
    with torch.no_grad():
        found, (_, bound) = model.log_evidence(batch, 1), model.density(batch, 1)
    torch.testing.assert_close(found, bound, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_guided_evidence_has_lower_variance():
    """With a trained posterior the variance is smaller, and so the mean of the logarithm higher."""
    problem = LinearGaussian().train_posterior(300)
    batch, exact = problem.draws(200), problem.exact()
    plain, guided = (
        (found.view(-1, 200) - exact[:, None])
        for found in (problem.model.filter(batch, 8).log_evidence, problem.model.log_evidence(batch, 8))
    )
    assert float(guided.std(1).mean()) < float(plain.std(1).mean())
    assert float(guided.mean()) > float(plain.mean())


@pytest.mark.parametrize("name", SDE)
@pytest.mark.parametrize("irregular", [False, True])
def test_filter_without_observations_is_plain_average(name, irregular):
    model, batch = small(name), make_batch(irregular=irregular)
    batch = batch._replace(observed=torch.zeros_like(batch.observed))
    with torch.no_grad():
        found, rollout = model.filter(batch, 6), model.rollout(batch, 6)
        torch.testing.assert_close(found.predictive.mean, rollout.mean, rtol=1e-13, atol=1e-13)
    assert (found.log_evidence == 0).all()


def test_filter_before_observations_is_plain_average():
    model, batch = small("vsdn_sde"), make_batch()
    first = batch.observed.to(torch.int8).argmax(1)
    with torch.no_grad():
        found, rollout = model.filter(batch, 6).predictive.mean, model.rollout(batch, 6).mean
    for b, n in enumerate(first):
        torch.testing.assert_close(found[b, : n + 1], rollout[b, : n + 1], rtol=1e-13, atol=1e-13)
    assert not torch.allclose(found, rollout, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SDE)
@pytest.mark.parametrize("irregular", [False, True])
def test_filter_result_does_not_depend_on_batch(name, irregular, dtype):
    """Results are equal alone, without padding, and in a large batch in another order, though resampling turns a
    difference of rounding into another particle. Equal evidence shows that all resampling decisions are equal: for a
    model in single precision it is equal to the last bit. Decoded values differ by the rounding of logits or means of
    up to 100, each a sum of 8 products.
    """
    model, batch = sharp(small(name)).to(dtype), make_batch(irregular=irregular)
    batch = batch._replace(values=batch.values.to(dtype))
    rounding = {"rtol": 0, "atol": 0} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    with torch.no_grad():
        together = model.filter(batch, 16)
        for b in range(3):
            n = int(batch.present[b].sum())
            turned = [(b + i) % 3 for i in range(40)]
            many = Batch(*(x[turned] if isinstance(x, torch.Tensor) else () for x in batch[:-1]))
            for other in (batch.rows(slice(b, b + 1)).first(n), many):
                found = model.filter(other, 16)
                torch.testing.assert_close(found.log_evidence[0], together.log_evidence[b], **rounding)
                torch.testing.assert_close(found.effective[0], together.effective[b], **rounding)
                mean = found.predictive.mean[0, :n]
                torch.testing.assert_close(
                    mean, together.predictive.mean[b, :n], rtol=0, atol=8 * 100 * torch.finfo(dtype).eps / 2
                )
    assert (together.effective < 16 * batch.observed.sum(1)).all()


@pytest.mark.parametrize("name", SDE)
@pytest.mark.parametrize("irregular", [False, True])
def test_continued_filter_equals_the_whole(name, irregular):
    """Continuing after the last observation, one more frame at a time, gives the same result up to the rounding of
    products of other shapes."""
    model, batch = sharp(small(name)), make_batch(B=1, irregular=irregular)
    batch = batch.draws(torch.arange(3))
    carried, frames = None, batch.observed[0].nonzero()[:, 0].tolist()
    with torch.no_grad():
        for n in frames:
            past = batch.first(n + 1)
            past = past._replace(observed=past.observed & (torch.arange(n + 1) < n))
            whole, found = model.filter(past, 8), model.filter(past, 8, carried)
            torch.testing.assert_close(found.predictive.mean[:, n], whole.predictive.mean[:, n], rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(found.log_evidence, whole.log_evidence, rtol=1e-11, atol=1e-11)
            carried = found.carried
    assert len(frames) > 3


def sharp(model):
    """Make the decoder depend on X so strongly that the filter resamples at nearly every observation."""
    with torch.no_grad():
        model.decoder.linear.weight[:, : model.config.latent] *= 20
    return model


@pytest.mark.parametrize("name", SDE)
def test_resampling_leaks_no_later_frames(name):
    """Changing all Y_m with m >= n leaves the prediction of Y_n the same to the last bit, and changes later ones."""
    model, batch = sharp(small(name)), make_batch()
    with torch.no_grad():
        predicted = model.filter(batch, 8)
        for n in range(batch.values.shape[1]):
            values = batch.values.clone()
            values[:, n:] = 1 - values[:, n:]
            changed = model.filter(batch._replace(values=values), 8)
            assert torch.equal(changed.predictive.mean[:, : n + 1], predicted.predictive.mean[:, : n + 1])
            if batch.observed[0, n] and n < 16:
                assert not torch.equal(changed.predictive.mean[0, n + 1 :], predicted.predictive.mean[0, n + 1 :])
    assert predicted.effective.sum() < 0.5 * 8 * batch.observed.sum()  # it resamples


def test_systematic_resampling_rounds_the_expected_numbers():
    """Particle k occurs floor or ceil of S w_k times, and S w_k times on average over the uniform number."""
    S, n = 9, 2000
    weights = torch.rand(1, S, generator=torch.Generator().manual_seed(0)).double().pow(3)
    weights = weights / weights.sum()
    uniform = (torch.arange(n).double()[:, None] + 0.5) / n
    numbers = systematic(weights.expand(n, S), uniform)
    assert (numbers.diff(dim=1) >= 0).all()
    counts = torch.nn.functional.one_hot(numbers, S).sum(1).double()
    expected = S * weights[0]
    assert ((counts == expected.floor()) | (counts == expected.ceil())).all()
    # The count of a particle is a step function of the uniform number with two steps: a midpoint rule is off by 1 / n.
    assert (abs(counts.mean(0) - expected) < 2 / n).all()


@pytest.mark.parametrize("uniform", [2.0**-33, 1 - 2.0**-33])
def test_no_particle_without_weight_is_drawn(uniform):
    weights = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).double()
    numbers = systematic(weights, torch.tensor([[uniform]]).double())
    assert set(numbers[0].tolist()) == {1, 3}
