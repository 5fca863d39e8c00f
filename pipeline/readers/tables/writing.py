"""Write Parquet and CSV files block by block."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Block = Mapping[str, str | NDArray[Any]]
"""Column -> its values [N] in some rows, or one text for all of these rows. NaN is a missing value."""

_ROWS = 2**18
"""At least so many rows make a row group of a Parquet file, but for the last one."""


def write_parquet(path: Path, types: Mapping[str, type], blocks: Iterable[Block]) -> int:
    """Write a Parquet file and return its number of rows.

    Args:
        types: of each column, a NumPy scalar type, or `str`.
        blocks: the rows, in memory one block at a time.
    """
    from pyarrow import parquet

    with path.open("wb") as file, parquet.ParquetWriter(file, _schema(types)) as writer:
        return _written(writer, types, blocks)


def write_csv(path: Path, types: Mapping[str, type], blocks: Iterable[Block]) -> int:
    """Write a CSV file with a header and return its number of rows; a missing value is empty. Takes the arguments of
    `write_parquet`."""
    from pyarrow import csv

    options = csv.WriteOptions(quoting_style="needed")
    with path.open("wb") as file, csv.CSVWriter(file, _schema(types), write_options=options) as writer:
        return _written(writer, types, blocks)


def _written(writer: Any, types: Mapping[str, type], blocks: Iterable[Block]) -> int:
    import pyarrow as pa

    schema, rows, written = _schema(types), 0, 0
    waiting: list[pa.RecordBatch] = []
    for block in blocks:
        waiting.append(_batch(block, schema))
        rows += waiting[-1].num_rows
        if rows - written >= _ROWS:
            writer.write_table(pa.Table.from_batches(waiting))
            waiting.clear()
            written = rows
    writer.write_table(pa.Table.from_batches(waiting, schema))
    return rows


def _schema(types: Mapping[str, type]) -> "pa.Schema":
    import pyarrow as pa

    of = {name: pa.string() if kind is str else pa.from_numpy_dtype(np.dtype(kind)) for name, kind in types.items()}
    return pa.schema(list(of.items()))


def _batch(block: Block, schema: "pa.Schema") -> "pa.RecordBatch":
    import pyarrow as pa

    rows = next(len(values) for values in block.values() if not isinstance(values, str))
    columns = [
        pa.repeat(values, rows) if isinstance(values := block[field.name], str)
        else pa.array(values, field.type, from_pandas=True)
        for field in schema
    ]  # fmt: skip
    return pa.record_batch(columns, schema=schema)
