import torch
from scipy import stats
from torch import distributions as td

from models.parts.likelihoods import Bernoulli, Gaussian, Marginal
from models.parts.networks import Normal
from models.parts.noise import keyed_normal


def two_normals():
    g = torch.Generator().manual_seed(0)
    return [Normal(*torch.randn(2, 7, 4, generator=g, dtype=torch.float64)) for _ in range(2)]


def test_kl_and_density_match_torch_distributions():
    q, p = two_normals()
    theirs = [td.Normal(x.mean, x.log_std.exp()) for x in (q, p)]
    torch.testing.assert_close(q.kl(p), td.kl_divergence(*theirs).sum(-1), rtol=1e-12, atol=1e-12)
    x = torch.linspace(-2, 2, 28, dtype=torch.float64).view(7, 4)
    torch.testing.assert_close(q.log_prob(x), theirs[0].log_prob(x).sum(-1), rtol=1e-12, atol=1e-12)


def test_likelihoods_match_torch_distributions():
    g = torch.Generator().manual_seed(0)
    marginal = Marginal(torch.rand(5, generator=g), 0.7)
    parameters = torch.randn(3, 5, generator=g)
    y = (torch.rand(3, 5, generator=g) < 0.5).float()
    logits = parameters + torch.logit(marginal.mean)
    bernoulli = Bernoulli(marginal)
    torch.testing.assert_close(bernoulli.log_prob(parameters, y), td.Bernoulli(logits=logits).log_prob(y).sum(-1))
    torch.testing.assert_close(bernoulli.expectation(parameters), torch.sigmoid(logits))

    parameters = torch.randn(3, 10, generator=g)
    standard = Normal.of(parameters)
    theirs = td.Normal(marginal.mean + 0.7 * standard.mean, 0.7 * standard.log_std.exp())
    gaussian = Gaussian(marginal)
    torch.testing.assert_close(gaussian.log_prob(parameters, y), theirs.log_prob(y).sum(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gaussian.expectation(parameters), theirs.mean)


def test_zero_output_gives_the_marginal():
    mean = torch.tensor([0.1, 0.6, 0.0])
    expectation = Bernoulli(Marginal(mean, 1.0)).expectation(torch.zeros(3))
    torch.testing.assert_close(expectation, torch.tensor([0.1, 0.6, 1e-4]))


def test_keyed_noise_is_standard_normal_and_uncorrelated():
    noise = keyed_normal(torch.arange(200), 50, 20).double()
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    for lagged in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert abs(float(lagged.mean())) < 4 / lagged.numel() ** 0.5
    other = keyed_normal(torch.arange(200), 50, 20, stream=1).double()
    assert abs(float((noise * other).mean())) < 4 / noise.numel() ** 0.5


def test_keyed_noise_depends_on_key_alone():
    whole = keyed_normal(torch.tensor([3, 2**62 + 5, 7]), 40, 8)
    assert torch.equal(whole[1:2, :10, :5], keyed_normal(torch.tensor([2**62 + 5]), 10, 5))
    assert not torch.equal(whole[0], whole[2])
