"""Write Parquet and CSV files block by block."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

Block = Mapping[str, str | NDArray[Any]]
"""Type of a block of N rows: a map from each column to its values [N], or to one text for all rows. NaN is missing."""


class Instants(NamedTuple):
    """Type of a column of datetime64[ns]."""

    zone: str | None
    """Time zone in which the column's instants are displayed; the values themselves are in UTC."""


_SPECIAL = r'["\r\n]|'
"""Pattern of the characters that need quotes, besides the separator."""
_BYTES = 2**25
"""Minimum size of a row group of a Parquet file in memory; the last group may be smaller."""
_BATCHES = 512
"""Number of small batches after which they are joined: a batch of one row takes more memory than its cells."""


def write_parquet(path: Path, types: Mapping[str, type | Instants], blocks: Iterable[Block]) -> int:
    """Write a Parquet file and return its number of rows.

    Args:
        types: type of each column: a NumPy scalar type, `str`, or `Instants`.
        blocks: rows of the file. One block at a time is in memory.
    """
    schema = _schema(types)
    return parquet_of(path, schema, (_batch(block, schema) for block in blocks))


def write_csv(path: Path, types: Mapping[str, type | Instants], blocks: Iterable[Block]) -> int:
    """Write a CSV file with a header and return its number of rows; a missing value is empty. The arguments are those
    of `write_parquet`."""
    schema = _schema(types)
    return csv_of(path, schema, (_batch(block, schema) for block in blocks))


def parquet_of(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write the record batches to a Parquet file and return its number of rows."""
    with path.open("wb") as file, pa.parquet.ParquetWriter(file, schema) as writer:
        rows = 0
        for table in _tables(schema, batches):
            writer.write_table(table)
            rows += table.num_rows
        return rows


def csv_of(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], separator: str = ",") -> int:
    """Write the record batches to a CSV file with a header and return its number of rows.

    Text is quoted only in blocks with a cell that needs quotes."""
    rows = 0
    with path.open("wb") as file:
        names = [
            f'"{name.replace(chr(34), chr(34) * 2)}"' if _special(name, separator) else name for name in schema.names
        ]
        file.write(f"{separator.join(names)}\n".encode())
        for table in _tables(schema, batches):
            texts = [column for column in table.columns if pa.types.is_string(column.type)]
            special = any(
                pc.any(pc.match_substring_regex(text, _SPECIAL + re.escape(separator))).as_py() for text in texts
            )
            style = "needed" if special else "none"
            options = pa.csv.WriteOptions(include_header=False, quoting_style=style, delimiter=separator)
            pa.csv.write_csv(table, file, options)
            rows += table.num_rows
    return rows


def _special(text: str, separator: str) -> bool:
    return re.search(_SPECIAL + re.escape(separator), text) is not None


def _tables(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the batches as tables of at least `_BYTES`; the last one has the remaining rows."""
    joined: list[pa.Table] = []
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= _BYTES:
            yield pa.concat_tables([*joined, pa.Table.from_batches(waiting, schema)])
            joined, size = [], 0
            waiting.clear()
        elif len(waiting) == _BATCHES:
            joined.append(pa.Table.from_batches(waiting, schema).combine_chunks())
            waiting.clear()
    yield pa.concat_tables([*joined, pa.Table.from_batches(waiting, schema)])


def _schema(types: Mapping[str, type | Instants]) -> pa.Schema:
    return pa.schema([(name, _arrow_type(kind)) for name, kind in types.items()])


def _arrow_type(kind: type | Instants) -> pa.DataType:
    if isinstance(kind, Instants):
        return pa.timestamp("ns", kind.zone)
    return pa.string() if kind is str else pa.from_numpy_dtype(np.dtype(kind))


def _batch(block: Block, schema: pa.Schema) -> pa.RecordBatch:
    rows = next(len(values) for values in block.values() if not isinstance(values, str))
    columns = [
        pa.repeat(values, rows) if isinstance(values := block[field.name], str)
        else pa.array(values, field.type, from_pandas=True)
        for field in schema
    ]  # fmt: skip
    return pa.record_batch(columns, schema=schema)
