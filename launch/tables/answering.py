"""The rows of a user's table with predictions: its own rows with filled holes, or new rows after its series.

All series are predicted first, and the predictions kept on disk; then each file is read once more, from its first row
to its last.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from driftwork.errors import DriftworkError
from launch.prediction.answers import Frames
from launch.tables.asking import SHOWN, Ready, Table, asked
from models.base import Forecaster, Smoother
from pipeline.readers.tables import newtimes
from pipeline.readers.tables.answers import Answers, Continuations
from pipeline.readers.tables.questions import Ahead, Horizon, Question, ahead, holes
from pipeline.readers.tables.returned import filled_rows, schema_of


class Answered(NamedTuple):
    """A table with predictions. All but `rows` is in memory."""

    schema: Any
    """Columns of the table."""
    rows: Iterator[Any]
    """Record batches of the table, which can be iterated once."""
    number: int
    """Number of filled entries, or of continued series."""
    ended: int
    """Number of series that have no new row, because they end later."""
    shown: list[Frames]
    """The first sequences, for a figure."""


def check_fills(ready: Ready) -> None:
    """Raise `DriftworkError` if the model cannot fill holes."""
    if isinstance(ready.answerer.model, Forecaster):
        raise DriftworkError(f"{ready.name} forecasts from first times and does not impute; use driftwork forecast")


def horizon(ready: Ready, until: str, every: str) -> Horizon:
    """Return the new times of a forecast. Raises `DriftworkError` for texts that are no times, and if the model cannot
    forecast."""
    if isinstance(ready.answerer.model, Smoother):
        raise DriftworkError(f"{ready.name} does not forecast; use driftwork impute")
    assert ready.spec.table is not None
    return newtimes.horizon(until, every, ready.table.time_unit, ready.spec.table.zone is not None)


def filled(ready: Ready, table: Table, scratch: Path) -> Answered:
    """Return a table with filled holes; `table` was read with its holes."""
    schema = schema_of(ready.layout, [path for _, path in table.files])
    answers = Answers(scratch, ready.spec.dim, len(ready.answerer.columns))
    entries = 0
    first: list[Frames] = []

    def questions() -> Iterator[Question]:
        for own in table.series():
            yield from holes(own, ready.table)

    for question, frames, values in asked(ready, questions()):
        cells = question.cells
        mine = values[cells["frame"], cells["channel"]]
        known = ~np.isnan(cells["known"])
        mine[known] = np.nan
        mine[known, 0] = cells["known"][known]
        answers.add(cells, mine)
        entries += len(cells)
        if len(first) < SHOWN:
            first.append(frames)
    return Answered(schema, filled_rows(ready.layout, schema, table.files, answers), entries, 0, first)


def continued(ready: Ready, table: Table, scratch: Path, times: Horizon) -> Answered:
    """Return the new rows of a table's series, in the order of the series' last rows with a value in the table."""
    schema = schema_of(ready.layout, [path for _, path in table.files])
    answers = Continuations(scratch, ready.table.time_unit, ready.spec.dim, len(ready.answerer.columns))
    count, ended = 0, 0
    first: list[Frames] = []
    model = ready.answerer.model
    observed = model.given if isinstance(model, Forecaster) else None

    def questions() -> Iterator[Ahead]:
        nonlocal ended
        for own in table.observed_series():
            question = ahead(own, ready.table, times, observed)
            if question is None:
                ended += 1
            else:
                yield question

    for question, frames, values in asked(ready, questions()):
        answers.add(question.file, question.row, question.ticks, values[-len(question.ticks) :])
        count += 1
        if len(first) < SHOWN:
            first.append(frames)
    return Answered(schema, newtimes.continued_rows(ready.layout, schema, table.files, answers), count, ended, first)


def check_goes_on(answered: Answered, until: str) -> None:
    """Raise `DriftworkError` if no series has a new row."""
    if not answered.number and not answered.ended:
        raise DriftworkError("no series has a value to forecast from; give a table with observed values")
    if not answered.number:
        raise DriftworkError(f"until={until}: is not after the end of any series; give a later time")
