"""`driftwork forecast RUN source=FILE until=TIME every=SPAN out=FILE`: continue the series of a user's table."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.command import command, run
from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from driftwork.files import aside, writing
from driftwork.help import settings_of
from launch.prediction.answers import Frames
from launch.runs import run_folder
from launch.tables import shown
from launch.tables.request import Ready, Table, TableRequest, answered, opened, ready
from models.base import Forecaster, Smoother
from pipeline.readers.tables.newtimes import horizon, new_rows
from pipeline.readers.tables.questions import Ahead, Horizon, ahead
from pipeline.readers.tables.returned import rows_at, schema_of
from pipeline.readers.tables.writing import csv_of, parquet_of

USAGE = """usage: driftwork forecast RUN source=FILE until=TIME every=SPAN out=FILE [key=value ...]
  RUN  Run folder, or the id of a run in the tracking store. It was trained on a table."""


class ForecastConfig(TableRequest):
    until: str
    """Last time, as in the table; or the time after the end of each series, as in `+2d` or `+48` (in the unit of the
    table, seconds for ISO 8601)."""
    every: str
    """Time between two new rows of a series, as in `6h` or `0.5` (in the unit of the table, seconds for ISO 8601)."""


class Forecasted(NamedTuple):
    rows: int
    series: int
    shown: list[Frames]
    """The first sequences with their new times, for a figure."""


@command(USAGE, settings=settings_of(ForecastConfig))
def main(argv: list[str]) -> int:
    request = parse(ForecastConfig, argv[1:])
    run_folder.check_store_is_read(argv[:1], request.tracking.uri)
    folder = run_folder.find(argv[0], request.tracking.uri)
    prepared = ready(folder, request, "forecast")
    done = forecast(prepared, request)
    figure = request.figure or request.out.with_suffix(".png")
    shown.write(figure, done.shown, prepared.spec, "Forecast")
    print(f"{request.out}: {done.rows} rows of {done.series} series; figure {figure}")
    return 0


def forecast(prepared: Ready, request: ForecastConfig) -> Forecasted:
    """Write the new rows of the user's table to `request.out`."""
    if isinstance(prepared.model, Smoother):
        raise DriftworkError(f"{prepared.config.model.name} knows past and future, and does not forecast")
    spec = prepared.spec.table
    assert spec is not None
    times = horizon(request.until, request.every, prepared.table.time_unit, spec.zone is not None)
    with opened(prepared, request, holes=False) as (table, _):
        schema = schema_of(prepared.layout, [path for _, path in table.files])
        work = _Forecast(prepared, table, times, schema, request)
        with writing(f"out={request.out}"), aside(request.out) as temporary:
            if prepared.layout.text:
                rows = csv_of(temporary, schema, work.rows(), prepared.table.separator)
            else:
                rows = parquet_of(temporary, schema, work.rows())
        return Forecasted(rows, work.series, work.shown)


class _Forecast:
    """The new rows of all series, a batch of series at a time."""

    def __init__(self, prepared: Ready, table: Table, times: Horizon, schema: Any, request: ForecastConfig) -> None:
        self.prepared, self.table, self.times, self.schema, self.request = prepared, table, times, schema, request
        self.series, self.ended = 0, 0
        self.shown: list[Frames] = []

    def rows(self) -> Iterator[Any]:
        """Yield the new rows. Raises `DriftworkError` if no series has any."""
        questions = self._questions()
        while some := list(islice(questions, self.prepared.config.evaluate.batch_size)):
            last = self._last_rows(some)
            found = answered(self.prepared, [question.sequence for question in some])
            for question, (frames, values) in zip(some, found, strict=True):
                new = values[-len(question.ticks) :]
                layout = self.prepared.layout
                yield new_rows(layout, self.schema, last[question.file, question.row], question.ticks, new)
                self.series += 1
                if len(self.shown) < shown.SERIES:
                    self.shown.append(frames)
        self.table.check(self.request)
        if not self.series:
            raise DriftworkError(f"until={self.request.until}: is not after the end of any series; take a later time")
        if self.ended:
            print(f"{self.ended} series end at until={self.request.until} or later, and have no new row", flush=True)

    def _questions(self) -> Iterator[Ahead]:
        model = self.prepared.model
        first = model.given if isinstance(model, Forecaster) else None
        for own in self.table.series():
            question = ahead(own, self.prepared.table, self.times, first)
            if question is None:
                self.ended += 1
            else:
                yield question

    def _last_rows(self, some: list[Ahead]) -> dict[tuple[int, int], Any]:
        """Return the row of the last time of each series, by file and row."""
        found: dict[tuple[int, int], Any] = {}
        for number, path in self.table.files:
            rows: NDArray[np.int64] = np.unique([question.row for question in some if question.file == number])
            if len(rows):
                parts = rows_at(self.prepared.layout, self.schema, path, rows.astype(np.int64))
                batches = (part.slice(n, 1) for part in parts for n in range(part.num_rows))
                found |= {(number, row): batch for row, batch in zip(rows.tolist(), batches, strict=True)}
        return found


if __name__ == "__main__":
    raise SystemExit(run("forecast", main, sys.argv[1:]))
