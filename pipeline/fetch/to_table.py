"""Convert archives of series in formats of their own to one CSV file, which the data set `table` reads.

PhysioNet 2012 (one file per stay):             USHCN (one line per station, month and element):
  Time,Parameter,Value                            COOP ID 1-6, YEAR 7-10, MONTH 11-12, ELEMENT 13-16, then for each
  00:00,RecordID,132539                           of 31 days VALUE (5 columns), MFLAG, QFLAG, SFLAG (1 each)
  00:00,Age,54
  00:07,GCS,15
"""

import csv
import gzip
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from driftwork.errors import DriftworkError
from driftwork.files import aside, printable

Row = tuple[str, ...]

STAY = ("series", "time", "channel", "value", "age", "gender", "height", "icu_type", "weight_on_admission")
"""Columns of a stay in intensive care: measurements by minutes since admission, and descriptors known at admission."""
STATION = ("series", "time", "channel", "value")
"""Columns of a weather station: the date, an element and its value."""
_ON_ADMISSION = ("Age", "Gender", "Height", "ICUType", "Weight")
_UNKNOWN = "-1"
"""Text of an unknown descriptor."""
_UNITS = {"PRCP": 100, "SNOW": 10, "SNWD": 1, "TMAX": 1, "TMIN": 1}
"""Units in which an element is given, per inch or per degree Fahrenheit: PRCP is in hundredths of an inch."""
_AGAIN = "delete the file and fetch it again"
_MISSING = -9999
_LINE = 16 + 31 * 8


def write(path: Path, columns: Row, rows: Iterator[Row]) -> int:
    """Write the CSV file atomically and return the number of its rows."""
    count = 0
    with aside(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        out = csv.writer(handle, lineterminator="\n")
        out.writerow(columns)
        for row in rows:
            out.writerow(row)
            count += 1
    return count


def stays(folders: list[Path]) -> Iterator[Row]:
    """Yield the measurements of all stays, without the outcomes.

    Values of a parameter at one time are averaged, as is usual for these data.

    Raises `DriftworkError` with file and line if a file has another format."""
    files = sorted((path for folder in folders for path in folder.rglob("*.txt")), key=lambda path: path.stem)
    for path in files:
        yield from _stay(path)


def _stay(path: Path) -> Iterator[Row]:
    descriptors = dict.fromkeys(_ON_ADMISSION, "")
    values: dict[tuple[int, str], list[float]] = defaultdict(list)
    with path.open(encoding="ascii", errors="replace") as handle:
        for number, line in enumerate(handle, 1):
            cells = line.rstrip("\r\n").split(",")
            where = f"{printable(str(path))}: line {number}"
            if number == 1:
                if cells != ["Time", "Parameter", "Value"]:
                    raise DriftworkError(f"{where}: {printable(','.join(cells))} is not Time,Parameter,Value; {_AGAIN}")
                continue
            if len(cells) != 3:
                raise DriftworkError(f"{where}: {len(cells)} cells, not three; {_AGAIN}")
            time, parameter, text = cells
            hours, _, minutes = time.partition(":")
            if not (hours.isdigit() and minutes.isdigit() and int(minutes) < 60):
                raise DriftworkError(f"{where}: {printable(time)} is not a time in hours and minutes; {_AGAIN}")
            minute = 60 * int(hours) + int(minutes)
            if parameter in ("", "RecordID"):
                continue
            if minute == 0 and parameter in _ON_ADMISSION and not descriptors[parameter]:
                descriptors[parameter] = text
                if parameter != "Weight":
                    continue
            if text != _UNKNOWN:
                values[minute, parameter].append(_number(text, where))
    known = ["" if text == _UNKNOWN else text for text in descriptors.values()]
    for (minute, parameter), several in sorted(values.items()):
        yield (path.stem, str(minute), parameter, repr(math.fsum(several) / len(several)), *known)


def stations(archive: Path, first: int, last: int) -> Iterator[Row]:
    """Yield the daily values of all stations from the year `first` to `last`, in inches and degrees Fahrenheit.

    Values that failed a quality check (any QFLAG) are left out.

    Raises `DriftworkError` with the line if the file has another format."""
    name = printable(str(archive))
    try:
        with gzip.open(archive, "rt", encoding="ascii", errors="replace") as handle:
            for number, line in enumerate(handle, 1):
                yield from _month(line.rstrip("\r\n").ljust(_LINE), first, last, f"{name}: line {number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DriftworkError(f"{name}: is damaged: {error}; delete it and fetch it again") from None


def _month(line: str, first: int, last: int, where: str) -> Iterator[Row]:
    station, year, month, element = line[:6], line[6:10], line[10:12], line[12:16]
    if not (len(line) == _LINE and year.isdigit() and month.strip().isdigit() and element in _UNITS):
        raise DriftworkError(f"{where}: is not a month of the daily data: {printable(line[:24])}; {_AGAIN}")
    if not first <= int(year) <= last:
        return
    for day in range(31):
        value, quality = line[16 + 8 * day : 21 + 8 * day], line[22 + 8 * day]
        number = _number(value, f"{where}: day {day + 1}") if value.strip() else _MISSING
        if number == _MISSING or quality != " ":
            continue
        try:
            when = date(int(year), int(month), day + 1)
        except ValueError:
            wrong = f"day {day + 1} of month {month.strip()} holds a value, but there is no such day"
            raise DriftworkError(f"{where}: {wrong}; {_AGAIN}") from None
        yield (station, when.isoformat(), element, repr(number / _UNITS[element]))


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DriftworkError(f"{where}: {printable(text)[:40]} is not a number; {_AGAIN}")
    return number
