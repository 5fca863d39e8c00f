"""`driftwork train CONFIG.yaml data=DIR [ranks=N] [key=value ...]`, or `driftwork train resume=RUN [key=value ...]`.

It validates everything, writes the run folder and starts the ranks, `launch.training.rank`.
"""

import sys

from driftwork.command import command, run
from driftwork.help import Part, settings_of_file
from launch.runs import run_folder
from launch.runs.config import CONFIG_FILE, RunConfig
from launch.training.setup import folder_for, store_of
from launch.training.start import start, start_new

USAGE = """usage: driftwork train CONFIG.yaml [data=DIR|URL] [key=value ...]
       driftwork train resume=RUN [key=value ...]
  CONFIG.yaml  Config of a run, as in configs/train. With --help its values are shown.
  RUN          Run folder, or the id of a run in the tracking store."""


def _settings(words: list[str]) -> list[Part]:
    if not words or not words[0].startswith("resume="):
        return settings_of_file(RunConfig, words)
    folder = run_folder.find(words[0].partition("=")[2], store_of(words[1:]))
    return settings_of_file(RunConfig, [str(folder / CONFIG_FILE), *words[1:]])


@command(USAGE, settings=_settings)
def main(argv: list[str]) -> int:
    begin = start if argv[0].startswith("resume=") else start_new
    with folder_for(argv) as folder:
        return begin(folder)


if __name__ == "__main__":
    raise SystemExit(run("train", main, sys.argv[1:]))
