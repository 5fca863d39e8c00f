"""New rows of a forecast, which follow the user's rows and have times in the same form."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from pipeline.readers.tables.answers import Continuations
from pipeline.readers.tables.arrow import LATEST
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.parts import shown
from pipeline.readers.tables.questions import Horizon
from pipeline.readers.tables.returned import Layout, as_written, rows_at
from pipeline.table_spec import SECONDS, TimeUnit

_SPAN = re.compile(r"\s*([0-9.eE+-]+?)\s*(ns|us|ms|s|min|h|d)?\s*")
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:([T ])\d\d:\d\d(:\d\d(?:\.(\d+))?)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?")
_DIGITS = (0, 3, 6, 9)


def horizon(until: str, every: str, unit: TimeUnit, zoned: bool) -> Horizon:
    """Parse `until`, a time as in the table or a `+` and a span, and `every`, a span.

    A span is a number in the unit of the table (seconds for ISO 8601), or a number with a unit, as in `6h`.
    """
    step = _span(every, unit, "every=")
    if step <= 0:
        raise DriftworkError(f"every={every}: must be above 0; give a number, or one with a unit, as in 6h")
    if until.startswith("+"):
        return Horizon(_span(until[1:], unit, "until=+"), step, True)
    return Horizon(_instant(until, unit, zoned), step, False)


def _span(text: str, unit: TimeUnit, key: str) -> int | float:
    wanted = f"{key}{text}: must be a number, in the unit of the table, or one with a unit, as in 6h"
    found = _SPAN.fullmatch(text)
    if not found:
        raise DriftworkError(wanted)
    own: TimeUnit = found[2] or ("s" if unit == "iso" else unit)  # type: ignore[assignment]
    number = _number(found[1], own, wanted)
    if unit == "iso":
        return round(number * SECONDS[own] * 1e9)
    return number if own == unit else number * SECONDS[own] / SECONDS[unit]


def _number(text: str, unit: TimeUnit, wanted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise DriftworkError(wanted) from None
    if not abs(number) * SECONDS[unit] <= LATEST:  # NaN neither
        raise DriftworkError(f"{wanted}, up to {LATEST:g} seconds")
    return number


def _instant(text: str, unit: TimeUnit, zoned: bool) -> int | float:
    if unit != "iso":
        return _number(text, unit, f"until={text}: must be a number of {unit}, as in the table, or + a span")
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise DriftworkError(f"until={text}: must be a time by ISO 8601, or a span as in +2d") from None
    if (found.tzinfo is not None) != zoned:
        raise DriftworkError(
            f"until={text}: the times of the table have {'a' if zoned else 'no'} zone; write until in the same way"
        )
    since = (found if zoned else found.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000


def continued_rows(
    layout: Layout, schema: pa.Schema, files: Iterable[tuple[int, Path]], answers: Continuations
) -> Iterator[pa.RecordBatch]:
    """Yield the new rows of all series, in the order of their last rows in the files, which are read once each."""
    for number, path in files:
        rows = answers.rows(number)
        if len(rows):
            parts = rows_at(layout, schema, path, rows)
            lasts = (part.slice(n, 1) for part in parts for n in range(part.num_rows))
            for last, (ticks, values) in zip(lasts, answers.of(number), strict=True):
                yield _new_rows(layout, schema, last, ticks, values)


def _new_rows(
    layout: Layout, schema: pa.Schema, last: pa.RecordBatch, ticks: NDArray[Any], answers: NDArray[np.float32]
) -> pa.RecordBatch:
    """Return rows for the T new times of a series: one per time, or in the long layout one per time and channel.

    Args:
        last: the row of the last time of the series.
        answers: [T, D, K] mean, followed by the other quantities in the order of `layout.uncertain`.
    """
    config, (T, D, _) = layout.config, answers.shape
    keep = {config.series, *layout.kept}
    times = times_like(last.column(config.time)[0], ticks, config)
    columns: dict[str, Any] = {}
    for field in last.schema:
        value = last.column(field.name)[0] if field.name in keep else pa.scalar(None, field.type)
        columns[field.name] = pa.repeat(value, T)
    columns[config.time] = times
    if config.layout == "wide":
        for number, name in enumerate(config.channels):
            columns[name] = as_written(answers[:, number, 0], schema.field(name).type)
            for k, what in enumerate(layout.uncertain_of(name), 1):
                columns[f"{name}_{what}"] = pa.array(answers[:, number, k], from_pandas=True)
        return pa.record_batch([columns[name] for name in schema.names], schema=schema)
    take = pa.array(np.repeat(np.arange(T), D))
    columns = {name: column.take(take) for name, column in columns.items()}
    names = pa.array(config.channels).take(pa.array(np.tile(np.arange(D), T)))
    columns[config.channel] = names.cast(schema.field(config.channel).type)
    columns[config.value] = as_written(answers[:, :, 0].reshape(-1), schema.field(config.value).type)
    for k, what in enumerate(layout.uncertain, 1):
        columns[what] = pa.array(answers[:, :, k].reshape(-1), from_pandas=True)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def times_like(own: pa.Scalar, ticks: NDArray[Any], config: TableConfig) -> pa.Array:
    """Return new times in the type and form of a time of the user's: zone, separator and digits of ISO 8601."""
    kind = own.type
    if config.time_unit != "iso":
        return _numbers_like(own, ticks)
    if pa.types.is_string(kind):
        return pa.array(_texts_like(own.as_py(), ticks), kind)
    instants = pa.array(ticks, pa.timestamp("ns"))
    try:
        return pc.cast(instants, kind if not pa.types.is_timestamp(kind) else pa.timestamp(kind.unit, None)).cast(kind)
    except pa.ArrowInvalid:
        raise DriftworkError(
            f"every: column '{config.time}' is of type {kind}, which holds no {_iso(ticks[0], 9)}; give whole units"
        ) from None


def _numbers_like(own: pa.Scalar, ticks: NDArray[np.float64]) -> pa.Array:
    whole = bool((ticks == np.round(ticks)).all())
    if pa.types.is_string(own.type):
        plain = whole and re.fullmatch(r"\s*[+-]?\d+\s*", own.as_py())
        return pa.array([str(int(tick)) if plain else repr(float(tick)) for tick in ticks], own.type)
    if pa.types.is_integer(own.type) and not whole:
        raise DriftworkError("every: the times of the table are whole numbers; give a whole number")
    return pa.array(ticks, pa.float64()).cast(own.type)


def _texts_like(own: str, ticks: NDArray[np.int64]) -> Sequence[str]:
    found = _ISO.fullmatch(own.strip())
    if not found:
        raise DriftworkError(f"time {shown(own)}: its form cannot be continued; write times as 2024-05-01T12:30:00Z")
    separator, seconds, fraction, zone = found.groups()
    local = ticks + _offset(zone) * 10**9
    digits = next(
        number for number in _DIGITS if number >= len(fraction or "") and not (local % 10 ** (9 - number)).any()
    )
    if separator is None and not (local % (86400 * 10**9)).any():
        return [str(np.datetime64(int(tick), "ns").astype("datetime64[D]")) for tick in local]
    minutes = seconds is None and not (local % (60 * 10**9)).any()
    return [_iso(tick, digits, minutes).replace("T", separator or "T") + (zone or "") for tick in local]


def _iso(tick: Any, digits: int, minutes: bool = False) -> str:
    unit = "m" if minutes else {0: "s", 3: "ms", 6: "us", 9: "ns"}[digits]
    return str(np.datetime64(int(tick), "ns").astype(f"datetime64[{unit}]"))


def _offset(zone: str | None) -> int:
    """Return the offset of local time from UTC, in seconds; positive if it is ahead."""
    if zone in (None, "Z"):
        return 0
    assert zone is not None
    hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0
    return (-1 if zone[0] == "-" else 1) * (3600 * hours + 60 * minutes)
