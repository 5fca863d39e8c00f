"""`driftwork evaluate RUN split=test [ranks=N] [--json]`: every task at every rate, for the model and for copying the
last observed frame. The numbers, and figures and files of what the model makes of the data, also go into the run folder
and to the run at the tracker."""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import Field

from launch import checkpoint, launcher, run_folder, scores, showcase, streams
from launch.config import RunConfig
from launch.distributed import Ranks, alone
from launch.entry import run
from launch.results import Results, merge, read_results, show, values, write_results
from launch.tracking import open_run
from models.config_base import Config, build
from models.errors import DriftworkError
from pipeline.manifest import read_manifest
from pipeline.sequence import Split
from pipeline.verify import verify

USAGE = """usage: driftwork evaluate RUN [split=test] [data=DIR] [ranks=N] [--json]
RUN is a run folder, or the id of a run in runs/mlflow.db"""


class EvaluateConfig(Config):
    split: Split = "test"
    data: Path | None = None
    """Where the prepared data lie now; by default where the run was trained on them."""
    ranks: int = Field(1, ge=1)


def main(argv: list[str]) -> int:
    options = [argument for argument in argv if argument != "--json"]
    if not options or options[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if options else 2
    folder = run_folder.find(options[0])
    request = build(EvaluateConfig, _pairs(options[1:]), where="evaluate")
    config = run_folder.config_of(folder)
    if request.data is not None:
        config = config.model_copy(update={"data": request.data})
    if launcher.launched():
        return _rank(folder, config, request.split)
    launcher.check_ranks(request.ranks)
    _check_data(folder, config.data)
    if request.ranks == 1:
        evaluate(folder, config, request.split, alone())
    elif launcher.start("launch.evaluate", options, request.ranks, stdout=sys.stderr) != 0:
        raise DriftworkError("a rank failed; its own message stands above")
    results = read_results(folder, request.split)
    if "--json" in argv:
        print(json.dumps(results))
    else:
        show({config.model.name if name == "model" else name: table for name, table in results.items()},
             title=f"{folder}, {request.split} split")  # fmt: skip
    return 0


def evaluate(folder: Path, config: RunConfig, split: Split, ranks: Ranks) -> None:
    """Score on all ranks; rank 0 writes what came out."""
    manifest = read_manifest(config.data)
    model = run_folder.model_for(config, manifest)
    checkpoint.load_best(model, folder, ranks.device)
    model.eval()
    scoring = run_folder.scoring_for(config, manifest, config.evaluate.samples)
    results: Results = {"model": {}, "persistence": {}}
    for rate, stream in streams.evaluation(config, config.data, manifest, split, ranks).items():
        for name, score in (("model", scoring.model), ("persistence", scoring.persistence)):
            merge(results[name], scores.total(score, model, stream.epoch(0), rate, ranks.device))
    if ranks.rank == 0:
        written = [write_results(folder, split, results)]
        written += showcase.write(folder / "outputs", config, manifest, split, model)
        _track(folder, config, split, results, written)


def _rank(folder: Path, config: RunConfig, split: Split) -> int:
    from launch.engine import join_ranks, leave

    evaluate(folder, config, split, join_ranks())
    leave()
    return 0


def _check_data(folder: Path, data: Path) -> None:
    """The run's own data set, undamaged; figures of one run from two data sets would not compare."""
    trained_on = run_folder.record_of(folder).get("manifest")
    if trained_on is not None and read_manifest(data).hash != trained_on:
        raise DriftworkError(f"data={data} is not what {folder} was trained on (manifest {trained_on[:12]})")
    verify(data)


def _track(folder: Path, config: RunConfig, split: Split, results: Results, files: list[Path]) -> None:
    run_id = run_folder.record_of(folder).get("run_id")
    if run_id is None:
        return  # trained without a tracker
    experiment, run_name = run_folder.names(config)
    with open_run(
        config.tracking, experiment=experiment, run_name=run_name, run_folder=folder, tags={}, run_id=run_id
    ) as tracker:
        for name, table in results.items():
            prefix = split if name == "model" else f"{split}_{name}"
            tracker.metrics({f"{prefix}/{key}": value for key, value in values(table).items()}, step=0)
        for file in files:
            tracker.artifact(file, "outputs")


def _pairs(arguments: list[str]) -> dict[str, Any]:
    for argument in arguments:
        if "=" not in argument:
            raise DriftworkError(f"'{argument}' is not of the form key=value")
    return dict(argument.split("=", 1) for argument in arguments)


if __name__ == "__main__":
    raise SystemExit(run("evaluate", main, sys.argv[1:]))
