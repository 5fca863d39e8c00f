"""`driftwork predict RUN out=FILE [split=test]`: write a trained run's predictions of every frame of a split, beside
the truth, as a table for plots and computations."""

import sys
from pathlib import Path

from driftwork.command import command, run
from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from driftwork.help import settings_of
from launch.prediction import answers, output
from launch.prediction.answers import Answerer, Quantiles, Task
from launch.prediction.names import Names
from launch.runs import loaders, run_folder, weights
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring.draws import Draws
from launch.tracker.tracking import OfStore
from models.base import Forecaster
from pipeline.observe import Ratio
from pipeline.sequence import Split
from pipeline.shards.storage import Place

USAGE = """usage: driftwork predict RUN out=FILE.npz|.parquet|.csv [split=test] [key=value ...]
  RUN  Run folder, or the id of a run in the tracking store."""


class PredictConfig(OfStore):
    out: Path
    """File to write, and to replace where it exists. Its ending chooses the form: .npz, .parquet or .csv."""
    split: Split = "test"
    """Split whose sequences are predicted."""
    task: Task | None = None
    """Task of the predictions: `interpolation` from all observed frames, `prediction` from those before it, or
    `forecast` from the first frames. Null takes `forecast` for a run that forecasts, and otherwise `interpolation`.
    """
    ratio: Ratio | None = None
    """Fraction of the frames that are observed. Null takes the first ratio that the run is evaluated at."""
    quantiles: Quantiles = ()
    """Quantiles that are written beside mean and standard deviation of real-valued data, each given by its probability
    between 0 and 1. The default writes none."""
    data: Place | None = None
    """Folder or URL where the prepared data are now. Null takes it from the run's config."""
    cache_dir: Path | None = None
    """Folder where this machine keeps its copy of the data. Null takes it from the run's config."""


@command(USAGE, settings=settings_of(PredictConfig))
def main(argv: list[str]) -> int:
    request = parse(PredictConfig, argv[1:])
    run_folder.check_store_is_read(argv[:1], request.tracking.uri)
    folder = run_folder.find(argv[0], request.tracking.uri)
    output.checked(request.out)
    config = _requested(run_folder.config_of(folder), request)
    run_folder.check_data(folder, config)
    count = predict(folder, config, request)
    print(f"{request.out}: {count} sequences of the {request.split} split")
    return 0


def predict(folder: Path, config: RunConfig, request: PredictConfig) -> int:
    """Write the file `request.out` and return the number of sequences."""
    here = run_folder.at_hand(folder, config)
    manifest, ranks = run_folder.manifest_of(here), alone()
    spec = manifest.spec
    model = run_folder.model_for(config, manifest)
    weights.load_best(model, folder, ranks.device)
    model.eval()
    possible = answers.tasks(model, config.observe.evaluate.forecasts)
    if request.task is not None and request.task not in possible:
        raise DriftworkError(
            f"task={request.task}: {config.model.name} of this run supports only {' and '.join(possible)}; "
            "give one of these"
        )
    if request.quantiles and spec.likelihood == "bernoulli":
        raise DriftworkError("quantiles: these data are not real-valued with a Gaussian likelihood; remove them")
    if request.ratio is not None and isinstance(model, Forecaster):
        raise DriftworkError(f"ratio={request.ratio:g}: {config.model.name} reads only first frames; remove it")
    bernoulli, draws = spec.likelihood == "bernoulli", Draws.of(config.evaluate)
    answerer = Answerer(model, request.task or possible[0], draws, spec.binary, bernoulli, request.quantiles)
    stream = next(iter(loaders.evaluation(config, here.data, manifest, request.split, ranks).values()))
    frames = (frames for batch in stream.epoch(0) for frames in answerer.frames(batch))
    names = None
    if spec.table is not None:
        names = Names(spec.table, map(stream.dataset.read, stream.order(0).tolist()))
    return output.write(request.out, answerer.columns, frames, names)


def _requested(config: RunConfig, request: PredictConfig) -> RunConfig:
    """Return the run's config with the requested data and ratio of observed frames."""
    where = {"data": request.data or config.data, "cache_dir": request.cache_dir or config.cache_dir}
    config = config.model_copy(update=where)
    if request.ratio is None:
        return config
    if config.observe.evaluate.forecasts:
        raise DriftworkError(f"ratio={request.ratio:g}: this run forecasts from a prefix; remove it")
    observed = config.observe.evaluate.at((request.ratio,))
    return config.model_copy(update={"observe": config.observe.model_copy(update={"evaluate": observed})})


if __name__ == "__main__":
    raise SystemExit(run("predict", main, sys.argv[1:]))
