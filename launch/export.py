"""`driftwork export RUN`: export the best weights of a run as a model that MLflow serves, to RUN/model and the tracker.

Training ends with the same export. The folder contains all that serving needs: weights, description, and the code of
`models`, `driftwork` and `served_model`; neither the data nor the rest of Driftwork is needed there.
"""

import sys
from shlex import quote

from driftwork.command import command, run
from driftwork.config_base import flatten, parse
from driftwork.help import settings_of
from launch.runs import run_folder
from launch.serving.export import write
from launch.tracker.tracking import OfStore
from pipeline.shards.manifest import read_manifest

USAGE = """usage: driftwork export RUN [key=value ...]
  RUN  Run folder, or the id of a run in the tracking store.
Serve the model with: mlflow models serve -m RUN/model
For predictions on prepared data as a table: driftwork predict RUN out=FILE"""


@command(USAGE, most=2, settings=settings_of(OfStore))
def main(argv: list[str]) -> int:
    request = parse(OfStore, argv[1:])
    folder = run_folder.find(argv[0], request.tracking.uri)
    config = run_folder.config_of(folder, request.tracking)
    manifest = run_folder.divided(config, read_manifest(config.data))
    written = write(folder, config, manifest)
    with run_folder.tracked(folder, config) as tracker:
        tracker.model(written, flatten(config.model))
    print(f"{written}: serve it with: mlflow models serve -m {quote(str(written))} --env-manager local")
    return 0


if __name__ == "__main__":
    raise SystemExit(run("export", main, sys.argv[1:]))
