"""`driftwork compare RUN RUN ...`: compare evaluated runs, or those of a sweep, in tables like the papers', with the
trivial baselines and the differences to the first run. Runs that differ only in the seed share a row, and so do runs of
a model that was trained for each rate of observation; the folds of a cross-validation are pooled first."""

import sys
from pathlib import Path

from driftwork.command import command, run, typed
from driftwork.config_base import at_home, parse
from driftwork.errors import DriftworkError
from driftwork.files import aside, writing
from driftwork.help import settings_of
from launch.runs import run_folder
from launch.scoring import tables
from launch.scoring.comparison import compared
from launch.scoring.results import is_evaluated
from launch.tracker.tracking import OfStore
from pipeline.sequence import Split

USAGE = """usage: driftwork compare RUN [RUN ...] [key=value ...]
  RUN  Folder of an evaluated run, or its id in the tracking store. All are compared with the first.
       The folder of a sweep stands for all of its evaluated runs."""


class CompareConfig(OfStore):
    split: Split = "test"
    """Split whose scores are compared. Each run must have been evaluated on it."""
    out: Path | None = None
    """Markdown file that the tables are written to. Null writes no file."""


@command(USAGE, settings=settings_of(CompareConfig))
def main(argv: list[str]) -> int:
    options = [argument for argument in argv if "=" in argument and not Path(argument).exists()]
    names = [argument for argument in argv if argument not in options]
    if not names:
        print(USAGE)
        return 2
    request = parse(CompareConfig, options)
    run_folder.check_store_is_read(names, request.tracking.uri)
    made = compared([folder for name in names for folder in _folders(name, request)], request.split)
    for table in made:
        tables.show(table)
    if request.out is not None:
        with writing(f"out={request.out}"), aside(request.out) as temporary:
            temporary.write_text("\n".join([f"`{typed('compare', argv)}`\n", *map(tables.markdown, made)]))
    return 0


def _folders(name: str, request: CompareConfig) -> list[Path]:
    """Return the run folder of a `RUN`, or the evaluated run folders of a sweep."""
    folder = at_home(name)
    if not run_folder.runs_of_sweep(folder):
        folder = run_folder.find(name, request.tracking.uri)
    inside = run_folder.runs_of_sweep(folder)
    if not inside:
        return [folder]
    done = [run for run in inside if is_evaluated(run, request.split)]
    if not done:
        cure = f"driftwork evaluate {inside[0]} split={request.split}"
        raise DriftworkError(f"{name}: none of its runs is evaluated on the {request.split} split; {cure}")
    for left_out in inside:
        if left_out not in done:
            print(f"left out: {left_out} is not evaluated on the {request.split} split", file=sys.stderr)
    return done


if __name__ == "__main__":
    raise SystemExit(run("compare", main, sys.argv[1:]))
