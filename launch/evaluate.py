"""`driftwork evaluate RUN split=test [ranks=N] [--json]`: score every task at every rate, for the model and its trivial
baselines. The scores, with figures and other outputs of the model, also go into the run folder and to the run at the
tracker. Scores at other rates or numbers of samples than the run's own are stored beside these."""

import json
import sys

from driftwork.command import command, run
from driftwork.config_base import parse
from driftwork.help import settings_of
from launch.evaluation.evaluate import EvaluateConfig, evaluate
from launch.runs import run_folder
from launch.scoring import channels, tables
from launch.scoring.results import read_results, show

USAGE = """usage: driftwork evaluate RUN [split=test] [key=value ...] [--json]
  RUN     Run folder, or the id of a run in the tracking store.
  --json  Print the scores as JSON instead of tables."""


@command(USAGE, settings=settings_of(EvaluateConfig))
def main(argv: list[str]) -> int:
    options = [argument for argument in argv if argument != "--json"]
    request = parse(EvaluateConfig, options[1:])
    folder = run_folder.find(options[0], request.tracking.uri)
    name = evaluate(folder, request)
    results = read_results(folder, name)
    if "--json" in argv:
        print(json.dumps(results))
    else:
        model = run_folder.config_of(folder).model.name
        labels = {who: model if who == "model" else who for who in results}
        show({labels[who]: table for who, table in results.items()}, title=f"{folder}, {request.split} split")
        by_channel = channels.table(folder, name, labels)
        if by_channel is not None:
            tables.show(by_channel)
    return 0


if __name__ == "__main__":
    raise SystemExit(run("evaluate", main, sys.argv[1:]))
