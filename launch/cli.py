"""The console script: `driftwork COMMAND ...`. Each command is a module too, as in `python -m launch.train ...`."""

import importlib
import os
import sys

from driftwork.command import Command, home_provided, run

COMMANDS = {
    "demo": "Prepare the Bach chorales, train two models, and write scores, a figure and MIDI files.",
    "doctor": "Check this machine for causes of hangs and failures, and print a cure for each problem.",
    "fetch": "Download an official archive and check its hash, or check your copy of TIMIT.",
    "prepare": "Convert raw files to shards and a manifest, on Ray.",
    "verify": "Check every shard of a prepared data set against its manifest.",
    "plan": "Estimate the memory and time of training on N GPUs.",
    "train": "Train a model on this machine or on several hosts, under DeepSpeed.",
    "evaluate": "Score a trained run and its trivial baselines on a split.",
    "predict": "Write a trained run's predictions of every frame of a split as a table, beside the truth.",
    "impute": "Fill the missing values of your own table with a trained run, with intervals.",
    "forecast": "Continue the series of your own table with a trained run, with intervals.",
    "compare": "Print evaluated runs side by side, with the difference of each to the first.",
    "sweep": "Train and score every run of a grid under one parent run.",
    "report": "Write the papers' tables and figures from tracked runs, and a page that shows them.",
    "generate": "Write interpolations, forecasts or prior samples as MIDI, sound, motion and pictures.",
    "export": "Export the best weights of a run as a model that MLflow serves.",
    "ui": "Show the MLflow dashboard on 127.0.0.1.",
}

IN_ROOMS = {
    "impute": "launch.tables.impute",
    "forecast": "launch.tables.forecast",
    "plan": "launch.planning.plan",
    "ui": "launch.tracker.ui",
}
"""Modules of the commands that are not `launch.COMMAND`."""


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if arguments[1:] == ["--markdown"]:
            print(_reference())
            return 0
        print("usage: driftwork COMMAND ...\n       driftwork COMMAND --help\n       driftwork --version\n")
        print("\n".join(f"  {name:9s} {does}" for name, does in COMMANDS.items()))
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        from importlib import metadata  # takes long to import, and no command needs it

        print(f"driftwork {metadata.version('driftwork')}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"driftwork: no command '{name}'; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    os.environ.setdefault("WDS_SECURE", "1")  # otherwise webdataset would unpickle members of a shard
    with home_provided():  # some libraries read it when they are imported
        return run(name, main_of(name), arguments[1:])


def main_of(name: str) -> Command:
    """Import the module of a command and return its `main`."""
    main: Command = importlib.import_module(IN_ROOMS.get(name, f"launch.{name}")).main
    return main


def _reference() -> str:
    """Return docs/config.md."""
    from driftwork import help  # takes long to import, and no command needs it

    mains = {name: main_of(name) for name in COMMANDS}
    settings = {name: main.settings([]) if main.settings else [] for name, main in mains.items()}
    return help.reference({name: (COMMANDS[name], main.usage, settings[name]) for name, main in mains.items()})


if __name__ == "__main__":
    raise SystemExit(main())
