"""`driftwork evaluate RUN split=test [ranks=N] [--json]`: every task at every rate, for the model and for the baselines
that cost nothing. The numbers, and figures and files of what the model makes of the data, also go into the run folder
and to the run at the tracker. At other rates or numbers of samples than the run's own, the numbers go beside these."""

import json
import sys
from pathlib import Path

from pydantic import Field

from launch import run_folder, streams
from launch.config import Prediction, RunConfig
from launch.entry import command, run
from launch.figures.reliability import reliability
from launch.job import launcher
from launch.outputs import showcase
from launch.scoring import calibration, scores
from launch.scoring.results import estimates, merge, read_results, show, values, write_results
from launch.scoring.scores import Scored
from launch.tracker.tracking import OfStore
from launch.training import checkpoint
from launch.training.distributed import Ranks, alone
from models.config_base import parse
from models.errors import DriftworkError, without_login
from models.vsdn_sde import VsdnSdeConfig
from pipeline.observe import Ratio
from pipeline.sequence import Split
from pipeline.storage import Place

USAGE = """usage: driftwork evaluate RUN [split=test] [data=DIR|URL] [ranks=N] [ratios=[0.1,0.2]] [samples=N]
       [particles=N] [predict=filter|rollout] [tracking.uri=STORE] [--json]
RUN is a run folder, or the id of a run in the store"""


class EvaluateConfig(OfStore):
    split: Split = "test"
    data: Place | None = None
    """Where the prepared data lie now; by default where the run was trained on them."""
    cache_dir: Path | None = None
    """Where this machine keeps its copy; null: that of the run's config."""
    ranks: int = Field(1, ge=1)
    ratios: tuple[Ratio, ...] | None = Field(None, min_length=1)
    """Shares of the frames that are observed; null: those of the run's config."""
    samples: int | None = Field(None, ge=1)
    """Latent draws a sequence; null: those of the run's config."""
    particles: int | None = Field(None, ge=1)
    """Particles of VSDN-SDE's filter; null: those of the run's config."""
    predict: Prediction | None = None
    """How VSDN-SDE predicts, see `EvalConfig`; null: as the run's config says."""


@command(USAGE)
def main(argv: list[str]) -> int:
    options = [argument for argument in argv if argument != "--json"]
    request = parse(EvaluateConfig, options[1:], where="evaluate")
    folder = run_folder.find(options[0], request.tracking.uri)
    config, name = _requested(run_folder.config_of(folder, request.tracking), request)
    if launcher.launched():
        return _rank(folder, config, request.split, name)
    launcher.check_ranks(request.ranks)
    run_folder.check_data(folder, config)
    if request.ranks == 1:
        evaluate(folder, config, request.split, name, alone())
    elif launcher.start("launch.evaluate", [*map(without_login, options)], request.ranks, stdout=sys.stderr) != 0:
        raise DriftworkError("a rank failed; its own message stands above")
    results = read_results(folder, name)
    if "--json" in argv:
        print(json.dumps(results))
    else:
        show({config.model.name if who == "model" else who: table for who, table in results.items()},
             title=f"{folder}, {request.split} split")  # fmt: skip
    return 0


def evaluate(folder: Path, config: RunConfig, split: Split, name: str, ranks: Ranks) -> None:
    """Score on all ranks; rank 0 writes what came out, under `name`."""
    config = run_folder.at_hand(folder, config)
    manifest = run_folder.manifest_of(config)
    model = run_folder.model_for(config, manifest)
    checkpoint.load_best(model, folder, ranks.device)
    model.eval()
    scoring = run_folder.scoring_for(config, manifest, config.evaluate.samples)
    contenders = scoring.contenders(model)
    collected: dict[str, Scored] = {who: {} for who in contenders}
    for rate, stream in streams.evaluation(config, config.data, manifest, split, ranks).items():
        for who, score in contenders.items():
            merge(collected[who], scores.collect(score, model, stream.epoch(0), rate, ranks.device))
    if ranks.rank == 0:
        scored = {who: calibration.metrics(table) for who, table in collected.items()}
        curves = calibration.curves(collected["model"])
        written = [*write_results(folder, name, scored), calibration.write(folder, name, curves)]
        if name == split:
            title = f"{config.model.name} on {manifest.dataset}, {split} split"
            written += showcase.write(folder / "outputs", config, manifest, split, model)
            (folder / "outputs").mkdir(exist_ok=True)
            written += reliability(folder / "outputs/reliability", curves, intervals=not scoring.bernoulli, title=title)
        _track(folder, config, name, scored, written)


def _requested(config: RunConfig, request: EvaluateConfig) -> tuple[RunConfig, str]:
    """The run's config as it is to be evaluated, and the name of the results: the split, and what differs from the
    run's own evaluation."""
    own, name = config.observe.evaluate, str(request.split)
    where = {"data": request.data, "cache_dir": request.cache_dir}
    config = config.model_copy(update={key: value for key, value in where.items() if value is not None})
    if request.ratios is not None and request.ratios != own.ratios:
        observed = own.at(request.ratios, where="evaluate")
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


def _rank(folder: Path, config: RunConfig, split: Split, name: str) -> int:
    from launch.training.engine import join_ranks, leave

    evaluate(folder, config, split, name, join_ranks())
    leave()
    return 0


def _track(folder: Path, config: RunConfig, name: str, scored: dict[str, Scored], files: list[Path]) -> None:
    with run_folder.tracked(folder, config) as tracker:
        for who, table in scored.items():
            prefix = name if who == "model" else f"{name}_{who}"
            tracker.metrics({f"{prefix}/{key}": value for key, value in values(estimates(table)).items()}, step=0)
        for file in files:
            tracker.artifact(file, "outputs")


if __name__ == "__main__":
    raise SystemExit(run("evaluate", main, sys.argv[1:]))
