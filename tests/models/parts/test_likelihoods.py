import math

import pytest
import torch

from models.decoder import Decoder
from models.gru_ode import DrivenConfig
from models.parts.gain_shape import GainShapeGaussian
from models.parts.likelihood_choice import likelihood as gain_shape_or_not
from models.parts.likelihoods import Bernoulli, Gaussian, Marginal, NoisyMean
from models.parts.table_likelihoods import StudentT

D = 5


def test_bernoulli_frames_may_be_grey():
    y, parameters = torch.rand(4, D, dtype=torch.float64), torch.randn(4, D, dtype=torch.float64)
    bernoulli = Bernoulli(Marginal(torch.full((D,), 0.3), 0.5)).double()
    p = bernoulli.expectation(parameters)
    cross_entropy = (y * p.log() + (1 - y) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(bernoulli.log_prob(parameters, y), cross_entropy)


def marginal_and_frames():
    g = torch.Generator().manual_seed(0)
    marginal = Marginal(torch.arange(float(D)), 3.0)
    return marginal, marginal.mean + 3.0 * torch.randn(1000, D, generator=g)


@pytest.mark.parametrize("gain_shape", [False, True])
def test_decoder_starts_from_the_marginal(gain_shape):
    """The densities are equal up to float32 rounding of a log density of about 10 nats."""
    marginal, y = marginal_and_frames()
    likelihood = gain_shape_or_not(None, "gaussian", marginal, gain_shape)
    expected = torch.distributions.Normal(marginal.mean, 3.0).log_prob(y).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(likelihood.of_marginal(), y), expected, rtol=1e-5, atol=1e-5)
    p = torch.full((D,), 0.3)
    bernoulli = Bernoulli(Marginal(p, 0.5))
    torch.testing.assert_close(bernoulli.expectation(bernoulli.of_marginal()), p)


@pytest.mark.parametrize("likelihood", [Gaussian, GainShapeGaussian, StudentT, Bernoulli])
def test_beta_of_zero_keeps_the_log_likelihood(likelihood):
    g = torch.Generator().manual_seed(1)
    model = likelihood(Marginal(torch.arange(float(D)), 0.05)).double()
    parameters = torch.randn(4, model.width, generator=g, dtype=torch.float64)
    y, observed = torch.rand(4, D, generator=g, dtype=torch.float64), torch.rand(4, D, generator=g) < 0.5
    for mask in (None, observed):
        kept = model.beta_log_prob(parameters, y, 0.0, mask)
        torch.testing.assert_close(kept, model.log_prob(parameters, y, mask), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gain_shape", [False, True])
def test_untrained_decoder_scores_like_the_marginal(gain_shape):
    """The decoder's 64 inputs in [-1, 1], with weights below 1/8, change an output by less than about 1."""
    marginal, y = marginal_and_frames()
    torch.manual_seed(0)
    config = DrivenConfig(name="gru_ode", gain_shape=gain_shape)
    state = 2 * torch.rand(1000, 64, generator=torch.Generator().manual_seed(1)) - 1
    nll = -Decoder(64, "gaussian", marginal, config).log_prob(state, state[:, :0], y).mean() / D
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(3.0)
    assert abs(float(nll.detach()) - entropy) < 0.5


def test_stored_weights_keep_their_meaning():
    """A decoder's outputs mean the same as before decoders started from the marginal: 0 is a deviation of e^-2."""
    marginal, y = marginal_and_frames()
    decoder = Decoder(2, "gaussian", marginal, DrivenConfig(name="gru_ode"))
    decoder.load_state_dict(
        {name: torch.zeros_like(x) for name, x in decoder.state_dict().items() if "linear" in name}, strict=False
    )
    expected = torch.distributions.Normal(marginal.mean, 3.0 * math.exp(-2)).log_prob(y).sum(-1)
    torch.testing.assert_close(decoder.log_prob(torch.ones(1000, 2), y[:, :0], y), expected, rtol=1e-5, atol=1e-5)


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
