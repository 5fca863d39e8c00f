"""The console script: `driftwork COMMAND ...`. Each command is a module too, as in `python -m launch.train ...`."""

import importlib
import os
import sys

from driftwork.command import home_provided, run

COMMANDS = {
    "demo": "the whole path on the Bach chorales: MIDI, shards, two models, scores, a figure and a playable file",
    "doctor": "what would hang or fail without a word here, each with its cure",
    "fetch": "an official archive, held to its hash; a check of the TIMIT that you bring",
    "prepare": "raw files to shards and a manifest, on Ray",
    "verify": "every shard against the manifest",
    "train": "a model on the ranks of this machine, or of several, under DeepSpeed",
    "evaluate": "a trained run: density, prediction and interpolation, beside what costs nothing",
    "compare": "evaluated runs beside each other, and how each differs from the first",
    "sweep": "a grid of runs, one after another or several at once, under one parent run",
    "report": "the papers' tables and figures from the tracked runs, as files and as one page",
    "generate": "what a trained run makes, as .mid, .wav, .amc and .gif: interpolations, continuations, prior draws",
    "export": "a trained run as a model that MLflow serves; training ends with it",
    "ui": "the MLflow dashboard on 127.0.0.1",
}


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: driftwork COMMAND ...\n       driftwork --version\n")
        print("\n".join(f"  {name:9s} {does}" for name, does in COMMANDS.items()))
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        from importlib import metadata  # it loads much, and no command needs it

        print(f"driftwork {metadata.version('driftwork')}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"driftwork: no command '{name}'; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    os.environ.setdefault("WDS_SECURE", "1")  # webdataset would otherwise unpickle what a shard asks it to
    with home_provided():  # some libraries look for it as they are imported
        module = importlib.import_module(f"launch.{name}")
        return run(name, module.main, arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main())
