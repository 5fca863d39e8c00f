"""Score a trained run on a split: every task at every rate, for the model and its trivial baselines.

`driftwork evaluate` and a sweep's trials call this module. On several ranks each rank runs it.
"""

import sys
from pathlib import Path

from pydantic import Field

from driftwork.command import run
from driftwork.errors import DriftworkError
from driftwork.files import require_room, writing
from launch.evaluation import showcase
from launch.figures.reliability import reliability
from launch.job import launcher
from launch.runs import loaders, run_folder, weights
from launch.runs.config import Prediction, RunConfig
from launch.runs.distributed import Ranks, alone, join_ranks, leave, set_tf32
from launch.scoring import calibration, channels
from launch.scoring.channels import OfChannels
from launch.scoring.collect import collect
from launch.scoring.results import estimates, merge, values, write_results
from launch.scoring.scores import Scoring, SplitScores
from launch.tracker.tracking import OfStore
from models.solvers.choice import set_loops
from models.vsdn_sde import VsdnSdeConfig
from pipeline.observe import Ratio
from pipeline.sequence import Split
from pipeline.shards.storage import Place


class EvaluateConfig(OfStore):
    split: Split = "test"
    """Split that the run is scored on."""
    data: Place | None = None
    """Folder or URL where the prepared data are now. Null takes it from the run's config."""
    cache_dir: Path | None = None
    """Folder where this machine keeps its copy of the data. Null takes it from the run's config."""
    ranks: int | None = Field(None, ge=1)
    """World size: number of processes that share the work, one per GPU or group of CPU cores. Null takes all GPUs of
    this machine, and 1 without GPUs."""
    ratios: tuple[Ratio, ...] | None = Field(None, min_length=1)
    """Fractions of the frames that are observed, scored one after another. Null takes those of the run's config."""
    samples: int | None = Field(None, ge=1)
    """Number of latent draws for each sequence. Null takes that of the run's config."""
    particles: int | None = Field(None, ge=1)
    """Number of particles for each sequence in VSDN-SDE's filter. Null takes that of the run's config."""
    predict: Prediction | None = None
    """Method by which VSDN-SDE predicts: its particle filter, or a `rollout` of the prior that earlier observations do
    not weight. Null takes that of the run's config."""


def evaluate(folder: Path, request: EvaluateConfig) -> str:
    """Score a run as requested, and return the name of its results.

    Raises:
        DriftworkError: the request has no effect on the model, the data are not the run's own, or a rank failed.
    """
    config, name = _requested(run_folder.config_of(folder, request.tracking), request)
    ranks = request.ranks or max(1, min(launcher.gpus(), config.evaluate.batch_size))
    launcher.check_ranks(ranks)
    run_folder.check_data(folder, config)
    with writing(str(folder)):
        require_room(folder)
    if ranks == 1:
        _score(folder, config, request.split, name, alone())
        return name
    arguments = [str(folder), request.model_dump_json(exclude_unset=True)]
    if launcher.start(__name__, arguments, ranks, stdout=sys.stderr) != 0:
        raise DriftworkError("a rank failed; see its own message above")
    return name


def rank(folder: Path, request: EvaluateConfig) -> int:
    """Take part in an evaluation as one of its ranks, and return the exit code."""
    config, name = _requested(run_folder.config_of(folder, request.tracking), request)
    _score(folder, config, request.split, name, join_ranks())
    leave()
    return 0


def _score(folder: Path, config: RunConfig, split: Split, name: str, ranks: Ranks) -> None:
    """Score on all ranks. Rank 0 writes the results, under `name`."""
    set_tf32(False)
    set_loops(config.loops)
    config = run_folder.at_hand(folder, config)
    manifest = run_folder.manifest_of(config)
    model = run_folder.model_for(config, manifest)
    weights.load_best(model, folder, ranks.device)
    model.eval()
    scoring = Scoring.of(config, manifest, config.evaluate.samples)
    contenders = scoring.contenders(model)
    collected: dict[str, SplitScores] = {who: {} for who in contenders}
    by_channel: dict[str, OfChannels] = {who: {} for who in contenders}
    for rate, stream in loaders.evaluation(config, config.data, manifest, split, ranks).items():
        for who, score in contenders.items():
            found = collect(score, model, stream.epoch(0), rate, ranks.device)
            merge(collected[who], found.scores)
            merge(by_channel[who], found.channels)
    if ranks.rank == 0:
        scored = {who: calibration.metrics(table) for who, table in collected.items()}
        curves = calibration.curves(collected["model"])
        written = [*write_results(folder, name, scored), calibration.write(folder, name, curves)]
        if manifest.spec.table is not None:
            written.append(channels.write(folder, name, manifest.spec.table, channels.estimated(by_channel)))
        if name == split:
            title = f"{config.model.name} on {manifest.dataset}, {split} split"
            written += showcase.write(folder / "outputs", config, manifest, split, model)
            (folder / "outputs").mkdir(exist_ok=True)
            written += reliability(folder / "outputs/reliability", curves, intervals=scoring.intervals, title=title)
        _track(folder, config, name, scored, written)


def _requested(config: RunConfig, request: EvaluateConfig) -> tuple[RunConfig, str]:
    """Return the run's config with the requested changes, and the name of the results: the split, and the differences
    to the run's own evaluation."""
    own, name = config.observe.evaluate, str(request.split)
    where = {"data": request.data, "cache_dir": request.cache_dir}
    config = config.model_copy(update={key: value for key, value in where.items() if value is not None})
    if request.ratios is not None and request.ratios != own.ratios:
        observed = own.at(request.ratios)
        config = config.model_copy(update={"observe": config.observe.model_copy(update={"evaluate": observed})})
        name += "-at-" + "-".join(f"{100 * ratio:g}" for ratio in request.ratios)
    for key in ("samples", "particles", "predict"):
        value = getattr(request, key)
        if value is None:
            continue
        if key != "samples" and not isinstance(config.model, VsdnSdeConfig):
            raise DriftworkError(f"{key}={value} has no effect on {config.model.name}, which has no filter; remove it")
        if value != getattr(config.evaluate, key):
            config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={key: value})})
            name += f"-{key}-{value}"
    return config, name


def _track(folder: Path, config: RunConfig, name: str, scored: dict[str, SplitScores], files: list[Path]) -> None:
    with run_folder.tracked(folder, config) as tracker:
        for who, table in scored.items():
            prefix = name if who == "model" else f"{name}_{who}"
            tracker.metrics({f"{prefix}/{key}": value for key, value in values(estimates(table)).items()}, step=0)
        for file in files:
            tracker.artifact(file, "outputs")


def main(argv: list[str]) -> int:
    """Run a rank: `python -m launch.evaluation.evaluate FOLDER REQUEST`, with REQUEST as JSON."""
    return rank(Path(argv[0]), EvaluateConfig.model_validate_json(argv[1]))


if __name__ == "__main__":
    raise SystemExit(run("evaluate", main, sys.argv[1:]))
