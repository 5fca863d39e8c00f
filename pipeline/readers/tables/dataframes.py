"""Convert tables in memory (of pandas, of pyarrow, or any table that exports Arrow) to a Parquet file and back."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from driftwork.errors import DriftworkError
from driftwork.files import printable


def write(frame: Any, path: Path) -> None:
    """Write a table to a Parquet file. NaN of pandas is a missing value; named levels of an index become columns."""
    try:
        pa.parquet.write_table(_arrow(frame), path)
    except pa.ArrowException as error:  # as for a column of both text and numbers
        reason = printable(" ".join(": ".join(map(str, reversed(error.args))).split()))[:200]
        raise DriftworkError(f"the table cannot be read: {reason}; give each column one type") from None


def read(path: Path, like: Any) -> Any:
    """Return a Parquet file as a table of the type of `like`: a pandas DataFrame, or else a pyarrow Table."""
    table = pa.parquet.read_table(path)
    return table.to_pandas() if _is_pandas(like) else table


def _arrow(frame: Any) -> pa.Table:
    if _is_pandas(frame):
        named = [name for name in frame.index.names if name is not None]
        return pa.Table.from_pandas(frame.reset_index(named) if named else frame, preserve_index=False)
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    raise DriftworkError(f"a {type(frame).__name__} is not a table; give a path, a pandas DataFrame or an Arrow table")


def _is_pandas(frame: Any) -> bool:
    return type(frame).__module__.partition(".")[0] == "pandas"
