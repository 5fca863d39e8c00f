"""A run on a small table, and a stand-in for its model with known predictions, which the fixture `line` uses."""

import torch
from safetensors.torch import save_file

from driftwork.config_base import load
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.runs.weights import BEST
from models.base import LatentDynamics
from models.parts.networks import Normal
from models.predictive import Predictive
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.shards.manifest import read_manifest
from tests.pipeline.tables.making import write
from tests.places import ROOT, tiny

DEVIATION = 0.25
LOW, HIGH = -1.6448536269514722, 1.6448536269514722
"""Quantiles 0.05 and 0.95 of a standard normal."""


class Exact:
    """A Gaussian whose parameters are its mean and log standard deviation."""

    def __init__(self, dim):
        self.width = 2 * dim

    def frame(self, parameters):
        return Normal(*parameters.chunk(2, dim=-1))

    def expectation(self, parameters):
        return self.frame(parameters).mean

    def log_prob(self, parameters, y):
        return self.frame(parameters).log_prob(y)


class Line(LatentDynamics):
    """A model whose mean for channel d is 100 (d + 1) plus half the hours since the first frame; its deviation is
    constant."""

    def __init__(self, dim):
        super().__init__()
        self.likelihood = Exact(dim)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def density(self, batch, samples):
        raise NotImplementedError

    def forward(self, batch, samples=1):
        raise NotImplementedError

    def predict(self, batch, samples):
        return self.interpolate(batch, samples)

    def interpolate(self, batch, samples):
        D = batch.values.shape[2]
        mean = 100.0 * (1 + torch.arange(D)) + batch.times[..., None].float() / 7200
        log_std = torch.full_like(mean, DEVIATION).log()
        parameters = torch.cat([mean, log_std], dim=-1)
        return Predictive(self.likelihood, lambda draw: parameters, 2)


def mean(channel, hours):
    return 100.0 * (channel + 1) + hours / 2


def prepared(place, source, *settings):
    """Prepare a table and return its folder."""
    data = place / "data"
    sizes = ["val=0.2", "test=0.2", f"source={source}", f"out={data}"]
    prepare(load(PrepareConfig, ROOT / "configs/prepare/table.yaml", [*sizes, *settings]))
    return data


def untrained(place, source, *settings):
    """Prepare a table and return a run folder on it, with the weights that training begins with."""
    run = run_on(place, source, *settings)
    config = run_folder.config_of(run)
    save_file(run_folder.model_for(config, read_manifest(config.data)).state_dict(), run / BEST)
    return run


def run_on(place, source, *settings):
    """Prepare a table and return a run folder on it, without weights. Steps of its solver follow the table's times."""
    data = prepared(place, source, *settings)
    own = [f"data={data}", f"out={place / 'run'}", "tracking.uri=null", "model.max_step=null", "model.time_unit=null"]
    run_folder.create(load(RunConfig, tiny("vsdn_vae"), own).for_data(read_manifest(data).spec))
    return place / "run"


def run_on_hours(place, rows):
    """Write a wide table with times in hours, and return a run folder on it as `run_on` does."""
    return run_on(place, write(place / "ward.csv", rows), "dataset.layout=wide", "dataset.time_unit=h")
