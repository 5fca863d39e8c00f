import pytest
import torch
from torch import distributions as td

from driftwork.errors import DriftworkError
from models.parts.gain_shape import GainShape, GainShapeGaussian
from models.parts.likelihood_choice import likelihood
from models.parts.likelihoods import Gaussian, Marginal
from models.parts.networks import Normal
from tests.models.problems import normal

MARGINAL = Marginal(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), 0.25)


def test_louder_frame_has_equal_shape():
    reader = GainShape(MARGINAL)
    wave = normal(7, 3)
    quiet, loud = (reader(MARGINAL.mean + a * wave) for a in (1.0, 20.0))
    torch.testing.assert_close(quiet[:, :3], loud[:, :3], rtol=0.02, atol=0)  # up to the noise floor
    rms = wave.square().mean(1).sqrt()
    torch.testing.assert_close(loud[:, 3], (20 * rms / 0.25).log(), rtol=0, atol=1e-4)


def test_silence_has_no_shape_and_a_finite_gain():
    assert torch.equal(GainShape(MARGINAL)(MARGINAL.mean)[:3], torch.zeros(3, dtype=torch.float64))
    assert GainShape(MARGINAL)(MARGINAL.mean)[3].isfinite()


def test_gain_scales_the_gaussian_density():
    parameters, y = normal(11, 7), normal(11, 3, seed=2)
    ours = GainShapeGaussian(MARGINAL).double()
    gain = (4 * torch.tanh(parameters[:, :1] / 4)).exp()
    shape = Normal.of(parameters[:, 1:])
    theirs = td.Normal(MARGINAL.mean + 0.25 * gain * shape.mean, 0.25 * gain * shape.log_std.exp())
    torch.testing.assert_close(ours.log_prob(parameters, y), theirs.log_prob(y).sum(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.expectation(parameters), theirs.mean, rtol=1e-6, atol=1e-6)


def test_likelihood_without_gain_is_plain_gaussian():
    parameters, y = normal(11, 6), normal(11, 3, seed=2)
    no_gain = torch.cat([torch.zeros(11, 1, dtype=torch.float64), parameters], 1)
    ours, plain = GainShapeGaussian(MARGINAL).double(), Gaussian(MARGINAL).double()
    assert torch.equal(ours.log_prob(no_gain, y), plain.log_prob(parameters, y))


def test_gain_of_binary_frames_is_refused():
    with pytest.raises(DriftworkError, match="gain_shape=true: frames of a bernoulli likelihood"):
        likelihood(None, "bernoulli", MARGINAL, gain_shape=True)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_nll_scales_the_gradient(beta):
    """The gradient is that of the likelihood times std^(2 beta) (Seitzer et al., 2022, equations 3 to 5). At beta = 1
    the mean's gradient is that of half the squared error."""
    mean, log_std, x = normal(5, 3).requires_grad_(), normal(5, 3, seed=2).requires_grad_(), normal(5, 3, seed=3)
    weight = (2 * beta * log_std.detach()).exp()
    plain = torch.autograd.grad(td.Normal(mean, log_std.exp()).log_prob(x).sum(), (mean, log_std))
    ours = torch.autograd.grad(Normal(mean, log_std).beta_log_probs(x, beta).sum(), (mean, log_std))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, weight * b, rtol=1e-12, atol=1e-12)
    if beta == 1.0:
        torch.testing.assert_close(ours[0], x - mean.detach(), rtol=1e-12, atol=1e-12)
