"""A run with the weights that training begins with, and its exported model."""

from safetensors.torch import save_file

from driftwork.config_base import load
from launch.runs import loaders, run_folder
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.weights import BEST
from launch.serving import export
from pipeline.reading.stream import Request
from pipeline.shards.manifest import read_manifest
from tests.places import tiny

SDE = "model={name: vsdn_sde, latent: 4, hidden: 8, width: 16, depth: 1, max_step: 0.1}"
BI = "model={name: bi_gru_ode, hidden: 8}"


class Trained:
    """A run with initial weights, and its served model."""

    def __init__(self, folder, data, kind, *overrides):
        self.folder = folder
        file = tiny(kind)
        arguments = [
            f"data={data}",
            f"out={folder}",
            "tracking.uri=null",
            "evaluate.samples=3",
            "evaluate.particles=5",
            *overrides,
        ]
        self.config = load(RunConfig, file, arguments)
        run_folder.create(self.config)
        self.manifest = read_manifest(data)
        self.model = run_folder.model_for(self.config, self.manifest).eval()
        save_file(self.model.state_dict(), folder / BEST)

    def sequence(self):
        """Return the first batch of evaluation, of one sequence, and the request with its observed frames."""
        streams_ = loaders.evaluation(self.config, self.config.data, self.manifest, "test", alone())
        self.stream = next(iter(streams_.values()))
        batch = self.stream.dataset[Request(0, (0,), 1, 1.0)]
        seen = batch.observed[0]
        return batch, {"times": batch.times[0, seen].tolist(), "values": batch.values[0, seen].tolist()}


def exported(*run):
    trained = Trained(*run)
    export.write(trained.folder, trained.config, trained.manifest)
    return trained
