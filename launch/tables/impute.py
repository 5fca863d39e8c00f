"""`driftwork impute RUN source=FILE out=FILE`: fill the holes of a user's table by a trained run."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from driftwork.command import command, run
from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from driftwork.files import aside, writing
from driftwork.help import settings_of
from launch.prediction.answers import Frames
from launch.runs import run_folder
from launch.tables import shown
from launch.tables.request import Ready, Table, TableRequest, answered, opened, ready
from models.base import Forecaster
from pipeline.readers.tables.answers import Answers
from pipeline.readers.tables.questions import Question, holes
from pipeline.readers.tables.returned import filled_rows, schema_of
from pipeline.readers.tables.writing import csv_of, parquet_of

USAGE = """usage: driftwork impute RUN source=FILE out=FILE.parquet|.csv [key=value ...]
  RUN  Run folder, or the id of a run in the tracking store. It was trained on a table."""


class ImputeConfig(TableRequest):
    pass


class Imputed(NamedTuple):
    rows: int
    entries: int
    """Number of filled entries."""
    shown: list[Frames]
    """The first sequences, for a figure."""


@command(USAGE, settings=settings_of(ImputeConfig))
def main(argv: list[str]) -> int:
    request = parse(ImputeConfig, argv[1:])
    run_folder.check_store_is_read(argv[:1], request.tracking.uri)
    folder = run_folder.find(argv[0], request.tracking.uri)
    prepared = ready(folder, request, "interpolation")
    done = impute(prepared, request)
    figure = request.figure or request.out.with_suffix(".png")
    shown.write(figure, done.shown, prepared.spec, "Imputation")
    print(f"{request.out}: {done.rows} rows, {done.entries} entries filled; figure {figure}")
    return 0


def impute(prepared: Ready, request: TableRequest) -> Imputed:
    """Write the user's table with its holes filled to `request.out`."""
    if isinstance(prepared.model, Forecaster):
        name = prepared.config.model.name
        raise DriftworkError(f"{name} forecasts from first times and does not impute; take driftwork forecast")
    with opened(prepared, request, holes=True) as (table, scratch):
        schema = schema_of(prepared.layout, [path for _, path in table.files])
        answers = Answers(scratch, prepared.spec.dim, len(prepared.answerer.columns))
        entries, first = _answer(prepared, table, answers)
        table.check(request)
        rows = filled_rows(prepared.layout, schema, table.files, answers)
        with writing(f"out={request.out}"), aside(request.out) as temporary:
            if prepared.layout.text:
                return Imputed(csv_of(temporary, schema, rows, prepared.table.separator), entries, first)
            return Imputed(parquet_of(temporary, schema, rows), entries, first)


def _answer(prepared: Ready, table: Table, answers: Answers) -> tuple[int, list[Frames]]:
    entries = 0
    first: list[Frames] = []
    questions = _questions(prepared, table)
    while some := list(islice(questions, prepared.config.evaluate.batch_size)):
        found = answered(prepared, [question.sequence for question in some])
        for question, (frames, values) in zip(some, found, strict=True):
            cells = question.cells
            mine = values[cells["frame"], cells["channel"]]
            known = ~np.isnan(cells["known"])
            mine[known] = np.nan
            mine[known, 0] = cells["known"][known]
            answers.add(cells, mine)
            entries += len(cells)
            if len(first) < shown.SERIES:
                first.append(frames)
    return entries, first


def _questions(prepared: Ready, table: Table) -> Iterator[Question]:
    for own in table.series():
        yield from holes(own, prepared.table)


if __name__ == "__main__":
    raise SystemExit(run("impute", main, sys.argv[1:]))
