"""A model of a table with four channels, one of them binary, whose answers are known."""

import torch
from torch import nn

from models.base import LatentDynamics, Terms
from models.parts.mixtures import Binary, ByChannel
from models.parts.networks import Normal
from models.predictive import Predictive

REAL, ONES = torch.tensor([0, 1, 3]), torch.tensor([2])


class Fixed:
    """Gaussian channels and one of probabilities, whose parameters are means and log standard deviations."""

    width = 8

    def log_prob(self, parameters, y, seen=None):
        raise NotImplementedError

    def expectation(self, parameters):
        return parameters[..., :4]

    def frame(self, parameters):
        mean, log_std = parameters.chunk(2, -1)
        return ByChannel((REAL, ONES), (Normal(mean[..., REAL], log_std[..., REAL]), Binary(mean[..., ONES])))


class FrameByFrame(LatentDynamics):
    """Answers that depend on the time alone."""

    has_latent = False

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))

    def forward(self, batch, kl_weight):
        raise NotImplementedError

    def density(self, batch, samples):
        total = batch.times.sum(1).float()
        return Terms(total, torch.zeros_like(total), batch.frames_observed.sum(1)), total

    def predict(self, batch, samples):
        t = batch.times.float()[..., None] / 10
        mean = torch.cat([t.sin(), t.cos(), t.cos().square(), -t.sin()], -1)
        return Predictive(Fixed(), lambda _: torch.cat([mean, 0.1 * t + torch.arange(4.0)], -1), 1)

    interpolate = predict
