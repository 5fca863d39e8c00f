"""`driftwork impute RUN source=FILE out=FILE`: fill the holes of a user's table with a trained run."""

import sys
from typing import NamedTuple

from driftwork.command import command, run
from driftwork.help import settings_of
from launch.tables.answering import Answered, check_fills, filled
from launch.tables.asking import Ready
from launch.tables.request import TableRequest, check, draw, opened, requested, write

USAGE = """usage: driftwork impute RUN source=FILE out=FILE.parquet|.csv [key=value ...]
  RUN  Folder of a run that was trained on a table, or its id in the tracking store."""


class ImputeConfig(TableRequest):
    pass


class Imputed(NamedTuple):
    rows: int
    answered: Answered


@command(USAGE, settings=settings_of(ImputeConfig))
def main(argv: list[str]) -> int:
    request, prepared = requested(ImputeConfig, argv, "interpolation")
    rows, answered = impute(prepared, request)
    figure = draw(prepared, request, answered, "Imputation")
    print(f"{request.out}: {rows} rows, {answered.number} entries filled; figure {figure}")
    return 0


def impute(prepared: Ready, request: TableRequest) -> Imputed:
    """Write the user's table with its holes filled to `request.out`."""
    check_fills(prepared)
    with opened(prepared, request, "all") as (table, scratch):
        answered = filled(prepared, table, scratch)
        check(table, request)
        return Imputed(write(prepared, request, answered), answered)


if __name__ == "__main__":
    raise SystemExit(run("impute", main, sys.argv[1:]))
