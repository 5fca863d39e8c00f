"""`driftwork forecast RUN source=FILE until=TIME every=SPAN out=FILE`: continue the series of a user's table."""

import sys
from typing import NamedTuple

from driftwork.command import command, run
from driftwork.help import settings_of
from launch.tables.answering import Answered, check_goes_on, continued, horizon
from launch.tables.asking import Ready
from launch.tables.request import TableRequest, check, draw, opened, requested, write

USAGE = """usage: driftwork forecast RUN source=FILE until=TIME every=SPAN out=FILE [key=value ...]
  RUN  Folder of a run that was trained on a table, or its id in the tracking store."""


class ForecastConfig(TableRequest):
    until: str
    """Last time, as in the table; or the time after the end of each series, as in `+2d` or `+48` (in the unit of the
    table, seconds for ISO 8601)."""
    every: str
    """Time between two new rows of a series, as in `6h` or `0.5` (in the unit of the table, seconds for ISO 8601)."""


class Forecasted(NamedTuple):
    rows: int
    answered: Answered


@command(USAGE, settings=settings_of(ForecastConfig))
def main(argv: list[str]) -> int:
    request, prepared = requested(ForecastConfig, argv, "forecast")
    rows, answered = forecast(prepared, request)
    figure = draw(prepared, request, answered, "Forecast")
    if answered.ended:
        print(f"{answered.ended} series end at until={request.until} or later, and have no new row", flush=True)
    print(f"{request.out}: {rows} rows of {answered.number} series; figure {figure}")
    return 0


def forecast(prepared: Ready, request: ForecastConfig) -> Forecasted:
    """Write the new rows of the user's table to `request.out`."""
    times = horizon(prepared, request.until, request.every)
    with opened(prepared, request, "rows") as (table, scratch):
        answered = continued(prepared, table, scratch, times)
        check(table, request)
        check_goes_on(answered, request.until)
        return Forecasted(write(prepared, request, answered), answered)


if __name__ == "__main__":
    raise SystemExit(run("forecast", main, sys.argv[1:]))
