"""`driftwork train CONFIG.yaml data=DIR [ranks=N] [key=value ...]`, or `driftwork train resume=RUN [key=value ...]`.

Called by a user, it validates everything, writes the run folder and starts the ranks. Called by `deepspeed --module
launch.train ...`, it is one rank.
"""

import sys
from functools import partial

from driftwork.command import command, run
from launch.job import launcher
from launch.training.setup import folder_for
from launch.training.start import start

USAGE = """usage: driftwork train CONFIG.yaml data=DIR|URL [ranks=N] [key=value ...]
       driftwork train resume=RUN [key=value ...]
hostfile=FILE, of lines `NAME slots=N`, trains on several hosts through ssh; see docs/clusters.md"""


@command(USAGE)
def main(argv: list[str]) -> int:
    if launcher.launched():
        from launch.training.rank import rank  # loads DeepSpeed, which the launching process can do without

        return rank(partial(folder_for, argv))
    return start(folder_for(argv))


if __name__ == "__main__":
    raise SystemExit(run("train", main, sys.argv[1:]))
