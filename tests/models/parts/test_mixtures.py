"""Mixtures of every kind of channel against scipy's distributions and numerical integration."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from models.parts.likelihoods import Bernoulli, Gaussian, Marginal, NoisyMean
from models.parts.mixtures import Binary, ByChannel, Normal, Student, StudentMixture, mean, mixture, variance
from models.parts.table_likelihoods import LikelihoodByChannel, StudentT
from models.predictive import Predictive

S, B, T, D = 4, 2, 3, 5


def student(*components):
    """Return a mixture of one frame and channel from components (weight, mean, scale)."""
    weights, means, scales = torch.tensor(components, dtype=torch.float64).T
    return StudentMixture(weights[:, None], means[:, None, None], scales[:, None, None])


MIXTURES = [
    ((1.0, 0.4, 1.7),),
    ((0.2, -1.0, 0.3), (0.5, 0.6, 1.1), (0.3, 2.5, 0.05)),
    ((0.5, 0.0, 1.0), (0.5, 0.0, 1e-3)),
    ((0.01, 40.0, 1.0), (0.99, 0.0, 1.0)),
]


def cdf(components, x):
    return sum(w * stats.t.cdf(x, 3, m, s) for w, m, s in components)


@pytest.mark.parametrize("components", MIXTURES)
def test_student_functions_match_scipy(components):
    """The distribution function is a sum of a few numbers of order 1; a quantile is bisected to 2^-33 of its bracket,
    over which a density of at most 0.37 / scale changes the level by less than 1e-5 for these scales."""
    found = student(*components)
    for y in (-7.0, 0.0, 0.3, 2.5, 41.0):
        at = torch.tensor([[y]], dtype=torch.float64)
        assert float(found.cdf(at)) == pytest.approx(cdf(components, y), rel=0, abs=1e-14)
    for level in (0.01, 0.25, 0.5, 0.95):
        assert cdf(components, float(found.quantile(level))) == pytest.approx(level, abs=1e-5)


@pytest.mark.parametrize("y", [-2.0, 0.6, 45.0])
@pytest.mark.parametrize("components", MIXTURES)
def test_student_crps_matches_the_integral(components, y):
    """CRPS is the integral of (F(x) - 1{x >= y})^2 over x, whose tails fall as x^-6."""
    edges = sorted({y, *(m + k * s for _, m, s in components for k in (-1e4, -100, -9, -3, -1, 0, 1, 3, 9, 100, 1e4))})
    pieces = [
        quad(lambda x: (cdf(components, x) - (x >= y)) ** 2, *part, epsabs=1e-12, epsrel=1e-11, limit=200)[0]
        for part in itertools.pairwise(edges)
    ]
    found = float(student(*components).crps(torch.tensor([[y]], dtype=torch.float64)))
    assert found == pytest.approx(sum(pieces), rel=1e-8, abs=1e-9)


def test_student_density_and_moments_match_scipy():
    frame = Student(torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor([0.5, -1.0], dtype=torch.float64))
    y, exact = (
        torch.tensor([4.0, -2.5], dtype=torch.float64),
        [stats.t(3, 0.3, math.exp(0.5)), stats.t(3, -2, math.exp(-1))],
    )
    for found, expected in (
        (frame.log_probs(y), [t.logpdf(float(x)) for t, x in zip(exact, y, strict=True)]),
        (variance(frame), [t.var() for t in exact]),
        (mean(frame), [t.mean() for t in exact]),
    ):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_binary_channels_have_bernoulli_scores():
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = mixture(torch.ones(1, dtype=torch.float64), [Binary(p)])
    for y in (0.0, 1.0):
        at = torch.full_like(p, y)
        torch.testing.assert_close(found.crps(at), (p - y).square())
        torch.testing.assert_close(found.cdf(at), torch.from_numpy(stats.bernoulli.cdf(y, p.numpy())))
    for level in (0.05, 0.5, 0.95):
        torch.testing.assert_close(found.quantile(level), torch.from_numpy(stats.bernoulli.ppf(level, p.numpy())))


def mixed():
    """Return channels 3 and 0 as Gaussian, 4 and 1 as Student's t, 2 as binary."""
    marginal = Marginal(torch.tensor([0.2, 0.5, 0.3, -0.1, 2.0]), torch.tensor([0.7, 2.0, 0.4, 1.0, 30.0]))
    channels = [torch.tensor(at) for at in ([3, 0], [4, 1], [2])]
    kinds = (Gaussian, StudentT, Bernoulli)
    parts = [kind(marginal.of(at)) for kind, at in zip(kinds, channels, strict=True)]
    return LikelihoodByChannel(channels, parts).double(), marginal


def predictive(likelihood, seed=3):
    g = torch.Generator().manual_seed(seed)
    parameters = torch.randn(S, B, T, likelihood.width, generator=g, dtype=torch.float64)
    weights = torch.randn(S, B, T, generator=g, dtype=torch.float64).log_softmax(0)
    return Predictive(likelihood, parameters.__getitem__, S, weights), parameters, weights


def test_mixed_channels_equal_those_of_one_kind():
    """Each channel of a mixed table has the scores that a table of its kind alone would give."""
    likelihood, _ = mixed()
    whole, parameters, weights = predictive(likelihood)
    g = torch.Generator().manual_seed(5)
    y = torch.randn(B, T, D, generator=g, dtype=torch.float64)
    y[..., 2] = (y[..., 2] > 0).double()
    assert isinstance(likelihood.frame(parameters[0]), ByChannel)
    total = torch.zeros(S, B, T, dtype=torch.float64)
    for at, part, own in zip(
        likelihood.channels, likelihood.parts, parameters.split(likelihood.widths, -1), strict=True
    ):
        alone = Predictive(part, own.__getitem__, S, weights)
        torch.testing.assert_close(whole.mean[..., at], alone.mean, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(whole.deviation[..., at], alone.deviation, rtol=1e-14, atol=1e-14)
        for found, expected in (
            (whole.mixture().cdf(y), alone.mixture().cdf(y[..., at])),
            (whole.mixture().crps(y), alone.mixture().crps(y[..., at])),
            (whole.mixture().quantile(0.9), alone.mixture().quantile(0.9)),
        ):
            torch.testing.assert_close(found[..., at], expected, rtol=1e-14, atol=1e-14)
        total += torch.stack([part.log_prob(p, y[..., at]) for p in own])
    torch.testing.assert_close(whole.log_prob(y), (total + weights).logsumexp(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [Gaussian, StudentT])
def test_deviation_matches_samples(kind):
    """The standard deviation of 10^5 draws of the mixture lies within 4 percent: even for a t with three degrees of
    freedom, whose fourth moment is infinite, the share of the 300 largest squares varies by less.
    """
    likelihood = kind(Marginal(torch.zeros(1), 1.0)).double()
    found, parameters, weights = predictive(likelihood)
    rng, n = np.random.default_rng(0), 100_000
    w = weights[:, 0, 0].exp().numpy()
    which = rng.choice(S, size=n, p=w / w.sum())
    moments = likelihood.moments(parameters[:, 0, 0])
    unit = rng.standard_normal(n) if kind is Gaussian else rng.standard_t(3, n) / math.sqrt(3)
    samples = moments.mean[which, 0].numpy() + moments.log_std.exp()[which, 0].numpy() * unit
    assert float(found.deviation[0, 0, 0]) == pytest.approx(samples.std(), rel=0.04)


def likelihoods():
    marginal = Marginal(torch.tensor([0.2, 0.5, 0.3, -0.1, 2.0]), torch.tensor([0.7, 2.0, 0.4, 1.0, 30.0]))
    return {
        "gaussian": Gaussian(marginal), "student_t": StudentT(marginal),
        "bernoulli": Bernoulli(marginal._replace(mean=torch.full((D,), 0.3))),
        "noise": NoisyMean(marginal, "channel"), "mixed": mixed()[0],
    }  # fmt: skip


@pytest.mark.parametrize("name", likelihoods())
def test_masked_density_is_that_of_observed_channels(name):
    """Unobserved values change neither the density nor its gradient, to the last bit. The sum over all channels, one at
    a time, is the density of the frame."""
    likelihood = likelihoods()[name].double()
    g = torch.Generator().manual_seed(2)
    parameters = torch.randn(7, likelihood.width, generator=g, dtype=torch.float64, requires_grad=True)
    y, observed = (torch.rand(7, D, generator=g, dtype=torch.float64) for _ in range(2))
    y, observed = (y < 0.5).double(), observed < 0.5

    def result(y):
        found = likelihood.log_prob(parameters, y, observed)
        (gradient,) = torch.autograd.grad(found.sum(), parameters)
        return found, gradient

    before, changed = result(y), result(torch.where(observed, y, 1e6))
    assert torch.equal(before[0], changed[0])
    assert torch.equal(before[1], changed[1])
    each = torch.eye(D, dtype=torch.bool)
    alone = [likelihood.log_prob(parameters, y, own.expand(7, D)) for own in each]
    torch.testing.assert_close(torch.stack(alone).sum(0), likelihood.log_prob(parameters, y), rtol=1e-12, atol=1e-12)
    of_observed = (torch.stack(alone, 1) * observed).sum(1)
    torch.testing.assert_close(before[0], of_observed, rtol=1e-12, atol=1e-12)
    everything = torch.ones_like(observed)
    torch.testing.assert_close(
        likelihood.log_prob(parameters, y, everything), likelihood.log_prob(parameters, y), rtol=1e-12, atol=1e-12
    )


def test_channels_have_scales_of_their_own():
    """In units of each channel's scale the density is the standard one, whatever the unit of a channel."""
    marginal = Marginal(torch.tensor([10.0, -1.0]), torch.tensor([100.0, 0.01]))
    likelihood = Gaussian(marginal)
    y = torch.tensor([[110.0, -1.02]])
    expected = torch.distributions.Normal(marginal.mean, marginal.scale).log_prob(y).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(likelihood.of_marginal()[None], y), expected, rtol=1e-5, atol=1e-5)
    frame = likelihood.frame(likelihood.of_marginal())
    assert isinstance(frame, Normal)
    torch.testing.assert_close(frame.log_std.exp(), marginal.scale)
