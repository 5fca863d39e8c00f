"""Small tables in every format, and their series, without Ray and without a child process."""

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from pipeline.prepare.guard import Limits
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import find
from pipeline.readers.tables.merge import merge
from pipeline.readers.tables.series import Series
from pipeline.readers.tables.sheets import Sheets, SheetsConfig
from pipeline.readers.tables.survey import survey
from pipeline.sequence import Item, Sequence

HEADER = "series,time,channel,value\n"
WARD = {"layout": "wide", "time_unit": "h"}
"""Settings of `ward`."""


def ward(seed: int, patients: int = 7, times: int = 9) -> list[dict[str, Any]]:
    """Return rows of a wide table: patients with a pulse and a temperature at times in hours, some of them missing."""
    random, rows = np.random.default_rng(seed), []
    for patient in range(patients):
        for time in np.sort(random.choice(200, times, replace=False)) / 4:
            pulse, heat = (float(round(number, 3)) for number in random.normal([70, 37], [9, 1]))
            gone = random.integers(4)
            rows.append(
                {"series": f"p {patient}", "time": float(time), "pulse": None if gone == 0 else pulse,
                 "heat": None if gone == 1 else heat}
            )  # fmt: skip
    return rows


def long(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a wide table as a long one."""
    return [
        {"series": row["series"], "time": row["time"], "channel": channel, "value": row[channel]}
        for row in rows
        for channel in ("pulse", "heat")
        if row[channel] is not None
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path, row_group_size=5)
    elif path.suffix == ".npz":
        filled = {name: [np.nan if cell is None else cell for cell in cells] for name, cells in columns.items()}
        np.savez(path, **{name: np.array(cells) for name, cells in filled.items()})
    else:
        separator = "\t" if ".tsv" in path.name else ","
        lines = [list(columns), *(["" if cell is None else str(cell) for cell in row.values()] for row in rows)]
        data = "".join(separator.join(line) + "\n" for line in lines).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


class InProcess(NamedTuple):
    """A reader in this process, in place of the child process of `pipeline.prepare.guard`."""

    reader: Sheets
    source: Path
    limits: Limits

    def read(self, item: Item) -> list[Sequence]:
        return self.reader.read(self.source, item)

    def close(self) -> None:
        pass


def gathered(source: Path, scratch: Path, **settings: Any) -> Series:
    """Return the reader of a table's series. Raises the error of the first bad file."""
    config, found = TableConfig(**settings), find(source)
    scratch.mkdir()
    sheets = Sheets(SheetsConfig(table=config, scratch=scratch))
    for number, name in enumerate(found.names):
        sheets.read(found.root, Item(name, str(number), (name,)))
    return survey(config, scratch, merge(config, scratch, range(len(found.names)), found.names), found.names)


def sequences(source: Path, scratch: Path, **settings: Any) -> dict[str, Sequence]:
    """Return the sequences of a table by their keys without the hash."""
    series = gathered(source, scratch, **settings)
    found = [sequence for item in series.find(None) for sequence in series.read(None, item)]
    return {f"{sequence.key[:-18]}{sequence.key[-5:]}": sequence for sequence in found}


def equal(one: Sequence, other: Sequence) -> bool:
    """Return whether two sequences are equal to the last bit."""
    arrays = ("times", "values", "mask")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays) and (
        (one.key, one.group, one.about) == (other.key, other.group, other.about)
    )
