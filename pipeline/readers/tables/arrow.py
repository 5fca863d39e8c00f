"""Read CSV, Parquet and .npz files as batches of columns in numpy. This is the only module that reads by pyarrow.

A batch is a block of a CSV file or a part of a row group, so that memory does not grow with the file. Rows are numbered
from 1, without the header and blank lines of a CSV file.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from driftwork.files import printable
from pipeline.readers.tables.config import ARRAYS, PARQUET, TableConfig
from pipeline.readers.tables.parts import cure_of_instant, cure_of_number, cure_of_time, shown
from pipeline.sequence import UnreadableError
from pipeline.table_spec import SECONDS

_BLOCK = 2**20
"""Bytes of a block of a CSV file, of which pyarrow reads 32 ahead. A longer row is refused."""
_CELLS = 2**18
"""Number of cells of a batch of a Parquet file."""
_BUFFER = 2**20
"""Bytes that are read at a time of a column of a Parquet file; a row group may be as large as the file."""
LATEST = 1e15
"""Largest time, in seconds: 32 million years, beyond which a double resolves no eighth of a second."""
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
_ZONE = r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$"


class Batch:
    """Successive rows of a file. Its methods raise `UnreadableError` with the number of the bad row."""

    def __init__(self, columns: Any, first: int, config: TableConfig, nan: bool) -> None:
        self.columns, self.first, self.config = columns, first, config
        self.nan = nan or any(text.lower() == "nan" for text in config.missing)
        """Whether NaN is a missing value."""
        self.rows: int = columns.num_rows

    def bad(self, index: int | np.integer[Any], what: str) -> UnreadableError:
        return UnreadableError(f"row {self.first + int(index)}: {what}")

    def text(self, column: str, needed: bool) -> tuple[NDArray[np.int64], list[str]]:
        """Return for each row the index of its text among the distinct texts, -1 if it is missing, and these texts."""
        array = self.plain(column)
        if not (pa.types.is_string(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
            raise UnreadableError(f"column '{printable(column)}' is of type {array.type}, not text")
        coded = self._without_missing(pc.cast(array, pa.string())).dictionary_encode()
        codes = np.asarray(pc.fill_null(coded.indices, -1), np.int64)
        if needed and (codes < 0).any():
            raise self.bad(np.argmax(codes < 0), f"column '{printable(column)}' is empty")
        return codes, coded.dictionary.to_pylist()

    def number(
        self, column: str, exact: bool = False, only: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the numbers of a column, all finite, and a mask of the missing ones.

        With `exact`, integers that a double cannot hold are refused. Rows that are not in `only`, if given, count as
        missing.
        """
        array = self.plain(column)
        if only is not None and len(only) < self.rows:
            array = pc.if_else(pa.array(np.isin(np.arange(self.rows), only)), array, pa.scalar(None, array.type))
        if pa.types.is_string(array.type):
            array = self._without_missing(pc.utf8_trim_whitespace(array))
            if exact:
                self._check_integers(array, column)
            cure = cure_of_instant if column == self.config.time else self._cure
            array = self._cast(array, column, lambda part: pc.cast(part, pa.float64()), "is not a number", cure)
        elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type):
            what = "is an integer that no double can represent"
            array = self._cast(array, column, lambda part: pc.cast(part, pa.float64(), safe=exact), what)
        elif pa.types.is_decimal(array.type) or pa.types.is_null(array.type):
            array = pc.cast(array, pa.float64())
        else:
            raise UnreadableError(f"column '{printable(column)}' is of type {array.type}, not a number")
        missing = np.asarray(array.is_null())
        values = np.asarray(pc.fill_null(array, 0.0), np.float64).copy()
        nan = np.isnan(values)
        if nan.any() and not self.nan:
            what = "is NaN; add NaN to dataset.missing if it means a missing value"
            raise self.bad(np.argmax(nan), f"column '{printable(column)}' {what}")
        missing, values = missing | nan, np.where(nan, 0.0, values)
        if not np.isfinite(values).all():
            raise self.bad(np.argmax(~np.isfinite(values)), f"column '{printable(column)}' is infinite")
        return values, missing

    def _cure(self, text: str) -> str:
        """Return the cure for a cell that is not a number, as the end of an error message."""
        every = self.config.layout == "wide" and not self.config.channels
        others = (
            "; name a column of categories in dataset.static_categories, or list the columns with values in "
            "dataset.channels"
        )
        return cure_of_number(text) + (others if every else "")

    def _check_integers(self, array: Any, column: str) -> None:
        """Raise `UnreadableError` for an integer in text that a double cannot hold."""
        long = pc.fill_null(pc.match_substring_regex(array, r"^[+-]?\d{16,30}$"), False)
        for at in np.flatnonzero(np.asarray(long)):
            text = array[int(at)].as_py()
            if abs(int(text)) > 2**53:  # as pyarrow refuses an integer column
                what = "is an integer that no double can represent"
                raise self.bad(at, f"column '{printable(column)}' {what}: {shown(text)}")

    def time(self) -> tuple[NDArray[Any], bool | None]:
        """Return the times, and whether they have a zone.

        For ISO 8601 the times are nanoseconds since 1970, int64 [rows]. Otherwise they are the numbers themselves,
        float64 [rows], and the zone is None."""
        column, unit = self.config.time, self.config.time_unit
        name = printable(column)
        if unit != "iso":
            values, missing = self.number(column, exact=True)
            self._none_missing(missing)
            late = np.abs(values) > LATEST / SECONDS[unit]
            if late.any():
                raise self.bad(np.argmax(late), f"column '{name}' is {values[late][0]:g}, beyond {LATEST:g} seconds")
            return values, None
        array, zoned = self.plain(column), False
        if pa.types.is_string(array.type):
            array = self._without_missing(pc.utf8_trim_whitespace(array))
            self._none_missing(np.asarray(array.is_null()))
            zones = np.asarray(pc.match_substring_regex(array, _ZONE), np.bool_)
            zoned = bool(zones[:1].any())
            if (zones != zoned).any():
                at = np.argmax(zones != zoned)
                raise self.bad(at, f"column '{name}' has times with and without a zone; write all times alike")
        elif pa.types.is_timestamp(array.type):
            zoned = array.type.tz is not None
        elif not pa.types.is_date(array.type):
            raise UnreadableError(f"column '{name}' is of type {array.type}; set dataset.time_unit to its unit")
        target = pa.timestamp("ns", tz="UTC" if zoned else None)
        what = "is not a time by ISO 8601 of 1678 to 2261"
        array = self._cast(array, column, lambda part: pc.cast(part, target), what, cure_of_time)
        self._none_missing(np.asarray(array.is_null()))
        return np.asarray(pc.cast(array, pa.int64()), np.int64), zoned

    def _none_missing(self, missing: NDArray[np.bool_]) -> None:
        if missing.any():
            raise self.bad(np.argmax(missing), f"column '{printable(self.config.time)}' is empty")

    def plain(self, column: str) -> Any:
        """Return a column as one array without a dictionary; bytes are decoded as UTF-8."""
        array = self.columns.column(self.columns.schema.get_field_index(column))
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if pa.types.is_string(array.type):
            return array
        if array.type in (pa.binary(), pa.large_binary(), pa.large_string(), pa.string_view()):
            return self._cast(array, column, lambda part: pc.cast(part, pa.string()), "is not UTF-8 text")
        return array

    def _without_missing(self, array: Any) -> Any:
        standing = pc.is_in(array, value_set=pa.array(self.config.missing, pa.string()))
        return pc.if_else(standing, pa.scalar(None, pa.string()), array)

    def _cast(
        self, array: Any, column: str, cast: Callable[[Any], Any], what: str,
        cure: Callable[[str], str] = lambda text: "",
    ) -> Any:  # fmt: skip
        """Cast an array. If that fails, find the first bad row by bisection."""
        try:
            return cast(array)
        except pa.ArrowInvalid:
            low, high = 0, len(array)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                cast(array.slice(low, middle - low))
                low = middle
            except pa.ArrowInvalid:
                high = middle
        cell = array[low].as_py() if not pa.types.is_temporal(array.type) else array[low]
        text = cell.decode("latin-1") if isinstance(cell, bytes) else str(cell)
        raise self.bad(low, f"column '{printable(column)}' {what}: {shown(text)}{cure(text)}")


class _File(NamedTuple):
    names: list[str]
    """Names of all columns."""
    batches: Callable[[list[str]], Iterator[Any]]
    """Function that yields the record batches of given columns."""


def batches(path: Path, config: TableConfig, wanted: Callable[[list[str]], list[str]]) -> Iterator[Batch]:
    """Yield the batches of a file with the columns that `wanted` selects from the names of all columns.

    Raises `UnreadableError`, with the row if it is known.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # the others reserve more than they use, and memory is limited
    low, row = path.name.lower(), 0
    try:
        if not path.is_file():  # reading would wait on a pipe, and never end on a device
            raise UnreadableError("not a regular file" if path.exists() else "cannot be opened: no such file")
        file = (_npz if low.endswith(ARRAYS) else _parquet if low.endswith(PARQUET) else _csv)(path, config)
        columns, count = wanted(file.names), Counter(file.names)
        twice = [name for name in columns if count[name] > 1]
        if twice:
            raise UnreadableError(f"two columns are named {shown(twice[0])}; rename one")
        for columns_of_batch in file.batches(columns):
            batch = Batch(columns_of_batch, row + 1, config, nan=low.endswith(ARRAYS))
            row += batch.rows
            yield batch
            pa.default_memory_pool().release_unused()  # or blocks of many sizes leave holes that add up
    except pa.ArrowMemoryError:
        raise MemoryError from None
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        ragged = _RAGGED.search(str(error))
        if ragged:  # pyarrow counts the header as a row
            cure = "; set dataset.separator to the character between columns" if ragged[2] == "1" else ""
            where = f"row {int(ragged[1]) - 1}: {ragged[3]} columns"
            raise UnreadableError(f"{where}, {ragged[2]} in the header{cure}") from None
        where = f"after row {row}: " if row else ""
        raise UnreadableError(f"{where}{_reason(error)}") from None


def _csv(path: Path, config: TableConfig) -> _File:
    head = path.open("rb").read(4)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UnreadableError("is encoded in UTF-16; save it as UTF-8")
    if head[:4] == b"PAR1":
        raise UnreadableError("is a Parquet file; name it .parquet")
    read = pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK)
    parse = pa.csv.ParseOptions(delimiter=config.separator, newlines_in_values=True)
    with pa.csv.open_csv(_opened(path), read, parse) as reader:
        names: list[str] = reader.schema.names

    def all_batches(columns: list[str]) -> Iterator[Any]:
        types = dict.fromkeys(columns, pa.binary())
        convert = pa.csv.ConvertOptions(column_types=types, include_columns=columns, check_utf8=False)
        with pa.csv.open_csv(_opened(path), read, parse, convert) as reader:
            yield from reader

    return _File(names, all_batches)


def _opened(path: Path) -> Any:
    return pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None)


def _parquet(path: Path, config: TableConfig) -> _File:
    file = pa.parquet.ParquetFile(str(path), pre_buffer=False, buffer_size=_BUFFER)
    rows = max(1, _CELLS // max(1, file.metadata.num_columns))
    return _File(
        file.schema_arrow.names,
        lambda columns: file.iter_batches(batch_size=rows, columns=columns, use_threads=False),
    )


def _npz(path: Path, config: TableConfig) -> _File:
    """Open a file of arrays, one per column; a two-dimensional array has a column per channel."""
    if path.open("rb").read(2) != b"PK":
        raise UnreadableError("is not an .npz file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError, AttributeError) as error:
        raise UnreadableError(f"is not a file of arrays: {_reason(error)}") from None
    block = columns.pop(config.value, None) if config.layout == "wide" else None
    if block is not None:
        names = config.channels or tuple(map(str, range(block.shape[-1] if block.ndim else 0)))
        if block.ndim != 2 or block.shape[1] != len(names):
            raise UnreadableError(f"array {shown(config.value)} is of shape {block.shape}, not [T, {len(names)}]")
        columns |= {name: block[:, number] for number, name in enumerate(names)}
    shapes = {array.shape for array in columns.values()}
    if len(shapes) != 1 or any(len(shape) != 1 for shape in shapes):
        raise UnreadableError(f"arrays have shapes {shown(str(sorted(shapes)))}; give all the same length [T]")
    if config.series not in columns:
        columns[config.series] = np.full(shapes.pop(), path.name[: -len(ARRAYS)])
    table = pa.table({name: pa.array(np.ascontiguousarray(array)) for name, array in columns.items()})
    return _File(list(columns), lambda wanted: iter(table.select(wanted).to_batches(max_chunksize=_CELLS)))


def _reason(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))[:200] or type(error).__name__
    if "straddling object" in text:
        return f"a row is longer than {_BLOCK // 2**20} MiB, perhaps because a quote is not closed"
    if "cannot infer number of columns" in text:
        return f"its header is longer than {_BLOCK // 2**20} MiB; give a table with fewer columns, in lines"
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
