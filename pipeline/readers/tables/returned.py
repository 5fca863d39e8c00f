"""The user's rows with missing values filled: the same columns in the same order, and new ones for the uncertainty.

Cells that are not filled are unchanged: text of a CSV file, numbers and timestamps of Parquet.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.readers.tables.answers import Answers
from pipeline.readers.tables.arrow import Batch, batches
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import shown
from pipeline.sequence import UnreadableError

_TEXTS = (pa.binary(), pa.large_binary(), pa.large_string(), pa.string_view())


class Layout(NamedTuple):
    """The columns of the written table."""

    config: TableConfig
    """Settings of the user's table, with the names of all channels."""
    uncertain: tuple[str, ...]
    """Names of the quantities beside the mean; each real-valued channel has a column for each of them."""
    binary: tuple[str, ...]
    """Channels of 0 and 1. Their mean is a probability, so they need no other quantity."""
    kept: tuple[str, ...]
    """Columns with one value per series, if the table has any. New rows have them too."""
    text: bool
    """Whether a CSV file is written."""

    @property
    def filled(self) -> tuple[str, ...]:
        """Return the columns of values."""
        return self.config.channels if self.config.layout == "wide" else (self.config.value,)

    @property
    def added(self) -> list[str]:
        """Return the names of the new columns."""
        if self.config.layout == "long":
            return list(self.uncertain)
        return [f"{name}_{what}" for name in self.filled for what in self.uncertain_of(name)]

    def uncertain_of(self, channel: str) -> tuple[str, ...]:
        """Return the quantities beside the mean of a channel."""
        return () if channel in self.binary else self.uncertain

    def schema(self, own: pa.Schema) -> pa.Schema:
        """Return the columns and types of the output for those of a file."""
        fields = [pa.field(field.name, self._type(field.name, _plain(field.type))) for field in own]
        taken = set(self.added) & set(own.names)
        if taken:
            raise DriftworkError(f"column {shown(min(taken))} is the name of a new column; rename it in the table")
        return pa.schema([*fields, *(pa.field(name, pa.float32()) for name in self.added)])

    def _type(self, name: str, kind: pa.DataType) -> pa.DataType:
        config = self.config
        numbers = {*config.static_numbers, *([] if config.time_unit == "iso" else [config.time])}
        if name in self.filled:
            keeps = pa.types.is_floating(kind) or (self.text and pa.types.is_string(kind))
            return kind if keeps else pa.float64()
        return pa.float64() if name in numbers and pa.types.is_string(kind) and not self.text else kind


def schema_of(layout: Layout, paths: Sequence[Path]) -> pa.Schema:
    """Return the columns of the output for all files of a table. Raises `DriftworkError` if these differ."""
    schema: pa.Schema | None = None
    for path in paths:
        first = next(_read(path, layout.config), None)
        if first is None:
            continue
        own = layout.schema(first.columns.schema)
        if schema is not None and not own.equals(schema):
            differ = set(map(str, own)) ^ set(map(str, schema))
            raise DriftworkError(
                f"{path.name}: its columns or their order differ from those of {paths[0].name} "
                f"({printable(min(differ, default='order'))}); give one table per call"
            )
        schema = own
    if schema is None:
        raise DriftworkError(f"{paths[0].name}: no rows, so there is nothing to fill; give another table")
    return schema


def filled_rows(
    layout: Layout, schema: pa.Schema, files: Iterable[tuple[int, Path]], answers: Answers
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all (number, path) in `files`, with missing values filled."""
    for number, path in files:
        for batch in _read(path, layout.config):
            found = answers.of(number, batch.first, batch.rows)
            found["row"] -= batch.first
            columns = {field.name: _as(batch, field) for field in schema if field.name not in layout.added}
            if layout.config.layout == "wide":
                yield _wide(layout, schema, columns, found, batch.rows)
            else:
                yield _long(layout, schema, columns, found, batch.rows)


def rows_at(layout: Layout, schema: pa.Schema, path: Path, rows: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Yield the given `rows` of a file, ascending and counted from 1, batch by batch."""
    own = [field for field in schema if field.name not in layout.added]
    for batch in _read(path, layout.config):
        here = rows[(rows >= batch.first) & (rows < batch.first + batch.rows)] - batch.first
        if len(here):
            columns = [_as(batch, field).take(pa.array(here)) for field in own]
            yield pa.record_batch(columns, schema=pa.schema(own))


def _read(path: Path, config: TableConfig) -> Iterator[Batch]:
    try:
        yield from batches(path, config, list)
    except UnreadableError as error:
        raise DriftworkError(f"{printable(path.name)}: {error}") from None


def _wide(layout: Layout, schema: pa.Schema, columns: dict[str, Any], found: NDArray[Any], rows: int) -> pa.RecordBatch:
    for number, name in enumerate(layout.filled):
        mine = found[found["channel"] == number]
        columns[name] = _replaced(columns[name], mine["row"], mine["answer"][:, 0])
        for k, what in enumerate(layout.uncertain_of(name), 1):
            columns[f"{name}_{what}"] = _spread(mine["row"], mine["answer"][:, k], rows)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _long(layout: Layout, schema: pa.Schema, columns: dict[str, Any], found: NDArray[Any], rows: int) -> pa.RecordBatch:
    config, extra = layout.config, found["extra"]
    own, more = found[~extra], found[extra]
    columns[config.value] = _replaced(columns[config.value], own["row"], own["answer"][:, 0])
    for k, what in enumerate(layout.uncertain, 1):
        columns[what] = _spread(own["row"], own["answer"][:, k], rows)
    if not len(more):
        return pa.record_batch([columns[name] for name in schema.names], schema=schema)
    behind = np.bincount(more["row"].astype(np.int64), minlength=rows)
    take = np.repeat(np.arange(rows), 1 + behind)
    new = np.ones(len(take), np.bool_)
    new[np.arange(rows) + np.concatenate([[0], np.cumsum(behind)[:-1]])] = False
    at = np.flatnonzero(new)  # `more` is sorted by row, so that its order is that of these places
    keep = {config.series, config.time, *layout.kept}
    for name in schema.names:
        column = columns[name].take(pa.array(take))
        if name == config.channel:
            names = pa.array(config.channels).take(pa.array(more["channel"])).cast(column.type)
            column = pc.replace_with_mask(column, pa.array(new), names)
        elif name == config.value:
            column = _replaced(column, at, more["answer"][:, 0])
        elif name in layout.uncertain:
            numbers = more["answer"][:, 1 + layout.uncertain.index(name)]
            column = pc.replace_with_mask(column, pa.array(new), pa.array(numbers, from_pandas=True))
        elif name not in keep:
            column = pc.if_else(pa.array(new), pa.scalar(None, column.type), column)
        columns[name] = column
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _replaced(column: Any, rows: NDArray[Any], numbers: NDArray[np.float32]) -> Any:
    """Return a column in which `numbers` replace the values of `rows`, which are ascending."""
    mask = np.zeros(len(column), np.bool_)
    mask[rows] = True
    return pc.replace_with_mask(column, pa.array(mask), as_written(numbers, column.type))


def as_written(numbers: NDArray[np.float32], kind: pa.DataType) -> Any:
    """Convert float32 numbers to text or doubles, with the fewest decimals that read back the same; NaN is missing."""
    array = pa.array(numbers, pa.float32(), from_pandas=True)
    return array if kind == pa.float32() else pc.cast(pc.cast(array, pa.string()), kind)


def _spread(rows: NDArray[Any], numbers: NDArray[np.float32], length: int) -> Any:
    column = np.full(length, np.nan, np.float32)
    column[rows] = numbers
    return pa.array(column, from_pandas=True)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if kind in _TEXTS else kind


def _as(batch: Batch, field: pa.Field) -> Any:
    """Return a column of the user's table in the type of the output."""
    array = batch.plain(field.name)
    if array.type == field.type:
        return array
    values, missing = batch.number(field.name)
    return pa.array(values, pa.float64(), mask=missing)
