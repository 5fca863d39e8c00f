"""Tables damaged at random: CSV, gzipped CSV, Parquet and .npz, long and wide."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from driftwork.errors import DriftworkError
from pipeline.prepare.build import Unreadable
from pipeline.prepare.gather import gather, read_files
from pipeline.prepare.guard import Limits
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found, find
from pipeline.readers.tables.parts import rows_path
from pipeline.readers.tables.series import Series
from pipeline.readers.tables.sheets import Sheets, SheetsConfig
from pipeline.sequence import Item, UnreadableError
from tests.fuzz.damage import damaged
from tests.fuzz.refusal import attempt
from tests.pipeline.tables.making import long, ward, write

LIMITS = Limits(seconds=20, mib=2048)
FORMS = ["a.csv", "a.csv.gz", "a.parquet", "a.npz"]
GOOD = 4
"""Number of files of which one is left undamaged."""


def cells(random: Random, row: list[str]) -> list[str]:
    """Replace the time or a value of a row of a long table by text that is not a number."""
    at = random.choice([1, 3])
    return [*row[:at], random.choice(["x", "1;5", "--1", "0x1f", "1e", "٣", "\0"]), *row[at + 1 :]]


def ragged(random: Random, row: list[str]) -> list[str]:
    return row + ["1"] * random.choice([1, 2, 50]) if random.random() < 0.5 else row[: random.randrange(1, 4)]


def infinite(random: Random, row: list[str]) -> list[str]:
    return [*row[:3], random.choice(["inf", "-Infinity", "nan", "1e400", "1e39", "9" * 5000])]


def huge(random: Random, row: list[str]) -> list[str]:
    return [*row[:3], "x" * random.choice([10**5, 10**6])]


def empty(random: Random, row: list[str]) -> list[str]:
    at = random.randrange(3)
    return [*row[:at], "", *row[at + 1 :]]


def encoded(random: Random, row: list[str]) -> list[str]:
    return [row[0] + random.choice(["\udce9", "\udcff\udcfe", "\udcc3("]), *row[1:]]


ROWS: list[Callable[[Random, list[str]], list[str]]] = [cells, ragged, infinite, huge, empty, encoded]
"""Damage to one row, which the reason must name."""


def separated(random: Random, text: str) -> bytes:
    """Change the separator, the quotes or the encoding of the whole file."""
    change = random.randrange(4)
    if change == 0:
        return text.replace(",", random.choice([";", "\t", "|", ", "])).encode()
    if change == 1:
        return text.replace(",", '",', random.choice([1, 7])).encode()
    return text.encode("utf-16" if change == 2 else "utf-32")


def tables(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Read a folder with three damaged files to one good: good files give the same observations as alone, and the row
    of a bad file is named if the damage is in one row.
    """
    raw, scratch, alone = folder / "raw", folder / "scratch", folder / "alone"
    scratch.mkdir()
    alone.mkdir()
    rows: dict[str, int] = {}
    good = set()
    for n in range(cases + -(-cases // (GOOD - 1))):
        name, table = f"{n:04d}/{FORMS[n % 4] if n % GOOD == 0 else random.choice(FORMS)}", long(ward(n, patients=3))
        for row in table:
            row["series"] = f"{n} {row['series']}"
        path = write(raw / name, table)
        if n % GOOD == 0:
            good.add(name)
        elif path.suffix != ".csv" or random.random() < 0.3:
            path.write_bytes(damaged(random, path.read_bytes()))
        elif random.random() < 0.3:
            path.write_bytes(separated(random, path.read_text()))
        else:
            lines = [line.split(",") for line in path.read_text().splitlines()]
            rows[name] = random.randrange(1, len(lines))
            lines[rows[name]] = random.choice(ROWS)(random, lines[rows[name]])
            path.write_bytes("\n".join(map(",".join, lines)).encode("utf-8", "surrogateescape"))
    config, found = TableConfig(time_unit="h"), find(raw)
    unreadable = read_files(config, found, scratch, LIMITS, workers=2)
    reasons = {bad.file: bad.reason for bad in unreadable}
    for name, reason in reasons.items():
        assert reason.isprintable(), f"{name}: {reason!r}"
        assert "the parser failed" not in reason, f"{name}: {reason}"  # a reader's own mistake
    assert not reasons.keys() & good
    for name, row in rows.items():
        assert reasons.get(name, "").startswith(f"row {row}: "), f"{name}, row {row}: {reasons.get(name)}"
    for number, name in enumerate(found.names):
        if name in good:
            Sheets(SheetsConfig(table=config, scratch=alone)).read(found.root, Item(name, str(number), (name,)))
            assert rows_path(scratch, number).read_bytes() == rows_path(alone, number).read_bytes(), name
    outcome = Counter(refused=len(reasons), good=len(good), read=len(found.names) - len(reasons) - len(good))
    others = [Unreadable(file=name, reason="damaged") for name in found.names if name not in good]
    assert _series(config, found, alone, others) == Counter({"series read": 3 * len(good)})
    return outcome + _series(config, found, scratch, unreadable)


def _series(config: TableConfig, found: Found, scratch: Path, unreadable: list[Unreadable]) -> Counter[str]:
    """Read all series of the readable files. A series that cannot be read gives a reason in one line, and so does a
    contradiction between files.
    """
    outcome: Counter[str] = Counter()
    made: list[Series] = []
    whole = attempt(lambda: made.append(gather(config, found, scratch, {}, unreadable).series), DriftworkError, "")
    for item in made[0].find(None) if made else []:
        outcome[f"series {attempt(partial(_finite, made[0], item), UnreadableError, '')}"] += 1
    return outcome if made else Counter({f"gathering {whole}": 1})


def _finite(series: Series, item: Item) -> None:
    assert all(np.isfinite(sequence.values).all() for sequence in series.read(None, item))
