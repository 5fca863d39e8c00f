"""Predictive mixtures against the distributions of torch and scipy, numerical integration and samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Categorical, Independent, MixtureSameFamily
from torch.distributions import Normal as TorchNormal

from models.parts.gain_shape import GainShapeGaussian
from models.parts.likelihoods import Bernoulli, Gaussian, Marginal, NoisyMean
from models.parts.mixtures import GaussianMixture
from models.predictive import Predictive

S, B, T, D = 5, 2, 4, 3
MARGINAL = Marginal(torch.tensor([0.2, 0.5, -0.1]), 0.7)
LIKELIHOODS = {
    "bernoulli": lambda: Bernoulli(MARGINAL._replace(mean=torch.tensor([0.2, 0.5, 0.1]))),
    "gaussian": lambda: Gaussian(MARGINAL),
    "waves": lambda: GainShapeGaussian(MARGINAL),
    "noise of a channel": lambda: NoisyMean(MARGINAL, "channel"),
    "noise of a frame": lambda: NoisyMean(MARGINAL, "frame"),
    "known noise": lambda: NoisyMean(MARGINAL, 0.3),
}


def draws(likelihood, weighted=True):
    """Return a predictive with its parameters and weights."""
    g = torch.Generator().manual_seed(3)
    parameters = torch.randn(S, B, T, likelihood.width, generator=g, dtype=torch.float64)
    logits = torch.randn(S, B, T, generator=g, dtype=torch.float64) * weighted
    log_weights = logits.log_softmax(0)
    given = log_weights if weighted else None
    return Predictive(likelihood, parameters.__getitem__, S, given), parameters, log_weights


def as_torch(likelihood, parameters, log_weights):
    """Return the same mixture of whole frames as a torch distribution."""
    if isinstance(likelihood, Bernoulli):
        frames = TorchBernoulli(logits=parameters + likelihood.marginal)
    else:
        mean, log_std = likelihood.frame(parameters)
        frames = TorchNormal(mean, log_std.exp())
    shift = [1, 2, 0]  # torch mixes over the last batch axis
    frames = Independent(type(frames)(**{k: getattr(frames, k).permute(*shift, 3) for k in names(frames)}), 1)
    return MixtureSameFamily(Categorical(logits=log_weights.permute(shift)), frames)


def names(frames):
    return ("logits",) if isinstance(frames, TorchBernoulli) else ("loc", "scale")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name != "bernoulli"])
def test_deviation_is_that_of_the_mixture(name, weighted):
    likelihood = LIKELIHOODS[name]().double()
    predictive, *behind = draws(likelihood, weighted)
    torch.testing.assert_close(predictive.deviation, as_torch(likelihood, *behind).stddev, rtol=1e-6, atol=0)


def test_quantile_inverts_the_distribution_function():
    """Bisection leaves 2^-33 of the bracket, whose ends are quantiles of components: over a density of at most
    1 / (std sqrt(2 pi)) a level differs by less than 1e-8 here."""
    predictive, *_ = draws(LIKELIHOODS["gaussian"]().double())
    mixture = predictive.mixture()
    for level in (0.001, 0.05, 0.5, 0.95):
        found = mixture.cdf(mixture.quantile(level))
        torch.testing.assert_close(found, torch.full_like(found, level), rtol=0, atol=1e-8)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_mean_and_density_match_torch_mixtures(name, weighted):
    likelihood = LIKELIHOODS[name]().double()
    predictive, parameters, log_weights = draws(likelihood, weighted)
    expected = as_torch(likelihood, parameters, log_weights)
    g = torch.Generator().manual_seed(4)
    y = (torch.rand(B, T, D, generator=g) < 0.5).double()
    with torch.no_grad():
        torch.testing.assert_close(predictive.mean, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(predictive.log_prob(y), expected.log_prob(y), rtol=1e-12, atol=1e-12)
        if name != "bernoulli":
            one = as_torch(likelihood, parameters, log_weights)
            channels = MixtureSameFamily(
                Categorical(logits=one.mixture_distribution.logits[..., None, :].expand(-1, -1, D, -1)),
                TorchNormal(*(getattr(one.component_distribution.base_dist, k).mT for k in ("loc", "scale"))),
            )
            torch.testing.assert_close(predictive.mixture().cdf(y), channels.cdf(y), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("frames", [(slice(None), [2, 0]), torch.tensor([[1, 0, 0, 1], [0, 1, 1, 1]]).bool(), 1])
def test_indexed_predictive_covers_those_frames(frames):
    predictive, *_ = draws(Gaussian(MARGINAL).double())
    y = torch.ones(B, T, D, dtype=torch.float64)
    part = predictive[frames]
    assert torch.equal(part.mean, predictive.mean[frames])
    assert torch.equal(part.log_prob(y[frames]), predictive.log_prob(y)[frames])
    torch.testing.assert_close(part.mixture().crps(y[frames]), predictive.mixture().crps(y)[frames])


def test_mean_decodes_one_draw_at_once():
    """No frame is decoded before it is needed."""
    alive, most = [0], [0]

    class Counted(torch.Tensor):
        def __del__(self):
            alive[0] -= 1

    def decode(s):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return torch.full((B, T, 2 * D), float(s)).as_subclass(Counted)

    predictive = Predictive(Gaussian(MARGINAL), decode, 16)
    assert most == [0]
    assert predictive.mean.shape == (B, T, D)
    assert most[0] <= 2


def mixture(*components):
    """Return a mixture of one frame and channel from components (weight, mean, standard deviation)."""
    weights, means, stds = torch.tensor(components, dtype=torch.float64).T
    return GaussianMixture(weights[:, None], means[:, None, None], stds[:, None, None])


@pytest.mark.parametrize("y", [-3.0, 0.2, 0.9, 7.0])
def test_gaussian_crps_matches_the_published_form(y):
    """CRPS = sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) (Gneiting and Raftery, 2007, equation 21)."""
    mean, std = 0.4, 1.7
    z = (y - mean) / std
    expected = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    at = torch.tensor([[y]], dtype=torch.float64)
    assert float(mixture((1.0, mean, std)).crps(at)) == pytest.approx(expected, rel=1e-13)
    halves = mixture((0.3, mean, std), (0.7, mean, std))
    assert float(halves.crps(at)) == pytest.approx(expected, rel=1e-13)


MIXTURES = [
    ((0.2, -1.0, 0.3), (0.5, 0.6, 1.1), (0.3, 2.5, 0.05)),
    ((0.5, 0.0, 1.0), (0.5, 0.0, 1e-3)),
    ((1e-6, 40.0, 1.0), (1 - 1e-6, 0.0, 1.0)),
]


@pytest.mark.parametrize("y", [-2.0, 0.6, 2.6])
@pytest.mark.parametrize("components", MIXTURES)
def test_mixture_crps_matches_the_integral(components, y):
    """CRPS is the integral of (F(x) - 1{x >= y})^2 over x."""

    def cdf(x):
        return sum(w * stats.norm.cdf(x, m, s) for w, m, s in components)

    edges = sorted({y, *(m + k * s for _, m, s in components for k in (-9, -3, -1, 0, 1, 3, 9))})
    pieces = [
        quad(lambda x: (cdf(x) - (x >= y)) ** 2, *part, epsabs=1e-13, epsrel=1e-12)[0]
        for part in itertools.pairwise(edges)
    ]
    # Beyond nine standard deviations of all components the integrand is negligible.
    found = float(mixture(*components).crps(torch.tensor([[y]], dtype=torch.float64)))
    assert found == pytest.approx(sum(pieces), rel=1e-9, abs=1e-10)


def test_crps_matches_sample_estimate():
    """E|Y - y| - E|Y - Y'| / 2 over draws of Y is within four standard errors of the estimate."""
    rng, n, y = np.random.default_rng(0), 200_000, 0.1
    weights, means, stds = np.array(MIXTURES[0]).T
    which = rng.choice(3, size=(2, n), p=weights)
    one, other = rng.normal(means[which], stds[which])
    samples = np.abs(one - y) - np.abs(one - other) / 2
    found = float(mixture(*MIXTURES[0]).crps(torch.tensor([[y]], dtype=torch.float64)))
    assert abs(found - samples.mean()) < 4 * samples.std() / n**0.5


def test_crps_is_computed_frame_by_frame(monkeypatch):
    """The division into parts that fit the memory has no influence."""
    predictive, *_ = draws(Gaussian(MARGINAL).double())
    gaussians, y = predictive.mixture(), torch.full((B, T, D), 0.3, dtype=torch.float64)
    whole = gaussians.crps(y)
    monkeypatch.setattr("models.parts.mixtures._VALUES_AT_ONCE", 2 * S * D)
    torch.testing.assert_close(gaussians.crps(y), whole, rtol=1e-13, atol=0)
    for b, t, d in ((0, 0, 0), (1, 3, 2)):
        one = mixture(
            *zip(gaussians.weights[:, b, t], gaussians.means[:, b, t, d], gaussians.stds[:, b, t, d], strict=True)
        )
        torch.testing.assert_close(one.crps(y[b, t, d].view(1, 1))[0, 0], whole[b, t, d], rtol=1e-12, atol=1e-12)
