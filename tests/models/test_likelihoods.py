import pytest
import torch

from models.likelihoods import LIKELIHOODS, Marginal, NoisyMean

D = 5


def test_grey_values_are_allowed_as_bernoulli_frames():
    y, parameters = torch.rand(4, D, dtype=torch.float64), torch.randn(4, D, dtype=torch.float64)
    bernoulli = LIKELIHOODS["bernoulli"](Marginal(torch.full((D,), 0.3), 0.5)).double()
    p = bernoulli.expectation(parameters)
    cross_entropy = (y * p.log() + (1 - y) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(bernoulli.log_prob(parameters, y), cross_entropy)


@pytest.mark.parametrize("noise", ["channel", "frame", 0.7])
def test_noise_is_in_units_of_the_data(noise):
    marginal = Marginal(torch.arange(float(D)), 3.0)
    likelihood = NoisyMean(marginal, noise).double()
    parameters, y = torch.randn(2, likelihood.width, dtype=torch.float64), torch.randn(2, D, dtype=torch.float64)
    mean = torch.arange(float(D)) + 3 * parameters[:, :D]
    std = {"channel": torch.tensor(3.0), "frame": (parameters[:, D:].sigmoid() / 2).exp()}.get(noise, torch.tensor(0.7))
    expected = torch.distributions.Normal(mean, std.double()).log_prob(y).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(parameters, y).detach(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(likelihood.expectation(parameters), mean)
