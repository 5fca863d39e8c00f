"""`driftwork compare RUN RUN ...`: evaluated runs beside each other in the papers' form, with the baselines that cost
nothing, and how each differs from the first. Runs that differ in the seed alone are one row, and so are runs of a model
that was trained for each rate of observation; the folds of a cross-validation are put together first."""

import sys
from pathlib import Path

from driftwork.command import command, run, typed
from driftwork.config_base import parse
from driftwork.files import aside, writing
from driftwork.help import settings_of
from launch.runs import run_folder
from launch.scoring import tables
from launch.scoring.comparison import read_runs, rows_of
from launch.scoring.side_by_side import beside, differences, figures
from launch.tracker.tracking import OfStore
from pipeline.sequence import Split

USAGE = """usage: driftwork compare RUN [RUN ...] [key=value ...]
  RUN  Folder of an evaluated run, or its id in the tracking store. All are compared with the first."""


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
    request = parse(CompareConfig, options, where="compare")
    runs = read_runs(run_folder.find_to_read(names, request.tracking.uri), request.split)
    rows = rows_of(runs)
    data, _ = run_folder.names(run_folder.config_of(runs[0].folder))
    title, first = f"{data}, {request.split} split", next(iter(rows))
    further = beside(f"{title}: further scores", rows), beside(f"Further scores, difference to {first}", rows, first)
    made = [figures(title, rows), differences(rows, first), *(table for table in further if table is not None)]
    for table in made:
        tables.show(table)
    if request.out is not None:
        with writing(f"out={request.out}"), aside(request.out) as temporary:
            temporary.write_text("\n".join([f"`{typed('compare', argv)}`\n", *map(tables.markdown, made)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(run("compare", main, sys.argv[1:]))
