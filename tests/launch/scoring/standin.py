"""A model of a table with four channels, one of them binary, whose predictions are known."""

import torch
from torch import nn

from driftwork.config_base import load
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring.collect import collect
from launch.scoring.scores import Scoring
from models.base import LatentDynamics, Terms
from models.parts.mixtures import Binary, ByChannel
from models.parts.networks import Normal
from models.predictive import Predictive
from tests.places import tiny

REAL, ONES = torch.tensor([0, 1, 3]), torch.tensor([2])


class Fixed:
    """A likelihood of Gaussian channels and one binary channel. Its parameters are means and log standard
    deviations."""

    width = 8

    def log_prob(self, parameters, y, observed=None):
        raise NotImplementedError

    def expectation(self, parameters):
        return parameters[..., :4]

    def frame(self, parameters):
        mean, log_std = parameters.chunk(2, -1)
        return ByChannel((REAL, ONES), (Normal(mean[..., REAL], log_std[..., REAL]), Binary(mean[..., ONES])))


class FrameByFrame(LatentDynamics):
    """A model whose predictions depend on the time alone."""

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


CPU = torch.device("cpu")
ENTRIES = ["observe.evaluate={pattern: entries, ratios: [0.5]}"]


def scored(table, *overrides, batch_size=5):
    """Return the scores of all contenders, and the observed entries by key."""
    folder, manifest, _ = table
    overrides = [f"data={folder}", f"evaluate.batch_size={batch_size}", *overrides]
    config = load(RunConfig, tiny("vsdn_vae"), overrides)
    scoring, model = Scoring.of(config, manifest, 1), FrameByFrame()
    ((rate, stream),) = loaders.evaluation(config, folder, manifest, "test", alone()).items()
    shown = {key: batch.observed[b].numpy() for batch in stream.epoch(0) for b, key in enumerate(batch.keys)}
    found = {who: collect(x, model, stream.epoch(0), rate, CPU) for who, x in scoring.contenders(model).items()}
    return found, rate, shown
