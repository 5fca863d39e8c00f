"""Measure the memory of preparing a table of 0.05, 0.5 and 5 GB on one machine.

    python -m benchmarks.tables [GB ...]

A long CSV of measurements of many series, 10 channels each, is written to the folder for temporary files, once with the
rows of each series together and once in the order of time, prepared by one worker and deleted. Ten times the table's
size must be free there. Printed are the seconds of preparing and the peak memory, in MiB, of any process of a kind: the
driver, which gathers the series, the Ray workers, and the children that read files. The exit code is 1 if one is above
1024 MiB.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from benchmarks.memory import KINDS, preparing
from pipeline.shards.manifest import read_manifest

SIZES = (0.05, 0.5, 5.0)
AT_MOST = 1024
CHANNELS = 10
TIMES = 340
"""Times of a series, at each of which every channel is measured."""
ROW = 31
"""Bytes of a row, about."""


def rows(random: np.random.Generator, series: NDArray[np.int64], times: NDArray[np.int64]) -> pa.Table:
    """Return a row for each channel of each (series, time) pair."""
    count = len(series) * CHANNELS
    names = pa.DictionaryArray.from_arrays(pa.array(np.tile(np.arange(CHANNELS), len(series))),
                                           pa.array([f"channel {n}" for n in range(CHANNELS)]))  # fmt: skip
    return pa.table({
        "series": np.repeat(series, CHANNELS), "time": np.repeat(times, CHANNELS) * 15,
        "channel": names.cast(pa.string()),
        "value": random.standard_normal(count).astype(np.float32),
    })  # fmt: skip


def pairs(count: int, by: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pieces of the series and the times of all measurements, in the order of the rows."""
    if by == "series":
        for series in range(count):
            yield np.full(TIMES, series), np.arange(TIMES)
    else:
        for time_ in range(TIMES):
            yield np.arange(count), np.full(count, time_)


def write(path: Path, size: float, by: str) -> int:
    """Write a table of about `size` bytes and return the number of its series."""
    count, random = max(10, round(size / (ROW * CHANNELS * TIMES))), np.random.default_rng(0)
    schema = rows(random, np.arange(0), np.arange(0)).schema
    with csv.CSVWriter(path, schema) as out:
        for series, times in pairs(count, by):
            out.write_table(rows(random, series, times))
    return count


def main(sizes: tuple[float, ...]) -> None:
    most = 0.0
    print(
        f"{'GB':>6} {'rows by':>8} {'series':>7} {'seconds':>8}" + "".join(f" {kind:>8}" for kind in KINDS), flush=True
    )
    for size in sizes:
        for by in ("series", "time"):
            with tempfile.TemporaryDirectory() as folder:
                source, out = Path(folder, "table.csv"), Path(folder, "out")
                if 10 * size * 1e9 > shutil.disk_usage(folder).free:
                    raise SystemExit(f"{folder}: less than {10 * size:g} GB are free")
                count = write(source, size * 1e9, by)
                started = time.monotonic()
                held = preparing("table", source, out, "dataset.time_unit=s")
                seconds, found = time.monotonic() - started, read_manifest(out)
                assert sum(shard.samples for shard in found.shards) == count
                assert (
                    sum(found.stats.observed or ())
                    == sum(shard.samples for shard in found.of("train")) * CHANNELS * TIMES
                )
                print(f"{source.stat().st_size / 1e9:>6.2f} {by:>8} {count:>7} {seconds:>8.0f}", end="")
                print("".join(f" {mib:>8.0f}" for mib in held.values()), flush=True)
                most = max(most, *held.values())
    raise SystemExit(int(most > AT_MOST))


if __name__ == "__main__":
    main(tuple(map(float, sys.argv[1:])) or SIZES)
