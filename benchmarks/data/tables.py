"""Measure the memory of preparing a table of 0.05, 0.5 and 5 GB on one machine.

    python -m benchmarks.data.tables [GB ...]

A long CSV table of many series with 10 channels each is written as four files to the folder for temporary files, once
with the rows of each series together and once in the order of time, prepared by two workers and deleted. Five times the
table's size must be free there. The seconds of preparing are printed, and the peak memory, in MiB, of any process of a
kind: the driver, which gathers the series, the Ray workers, and the children that read files. The exit code is 1 if one
is above 1024 MiB.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.data.memory import KINDS, preparing
from pipeline.shards.manifest import read_manifest

SIZES = (0.05, 0.5, 5.0)
AT_MOST = 1024
CHANNELS = 10
TIMES = 340
"""Number of times of a series; every channel is measured at each of them."""
FILES = 4
ROW = 29
"""Approximate size of a row, in bytes."""
_DRAW = random.Random(0)


def block(line: str, count: int, gone: float) -> str:
    """Return the rows of one series, or of one time: `count` times a value of each channel.

    In `line`, the text of a row, N is replaced by the row's number among the `count`."""

    def value() -> str:
        return "" if _DRAW.random() < gone else f"{_DRAW.gauss(0, 1):.7f}"

    heads = (line.replace("N", str(number)) for number in range(count))
    return "".join(f"{head},channel {c},{value()}\n" for head in heads for c in range(CHANNELS))


def write(folder: Path, size: float, by: str, gone: float = 0.0) -> int:
    """Write a table of about `size` bytes in four files and return the number of its series. Values repeat from series
    to series, or from time to time; the fraction `gone` of them is missing."""
    count = max(10, round(size / (ROW * CHANNELS * TIMES)))
    rows, times = (block("S,N", TIMES, gone), count) if by == "series" else (block("N,S", count, gone), TIMES)
    folder.mkdir()
    for file in range(FILES):
        with (folder / f"part-{file}.csv").open("w", encoding="ascii") as out:
            out.write("series,time,channel,value\n")
            for number in range(file * times // FILES, (file + 1) * times // FILES):
                out.write(rows.replace("S", str(number)))
    return count


def main(sizes: tuple[float, ...]) -> None:
    most = 0.0
    print(
        f"{'GB':>6} {'rows by':>8} {'series':>7} {'seconds':>8}" + "".join(f" {kind:>8}" for kind in KINDS), flush=True
    )
    for size in sizes:
        for by in ("series", "time"):
            with tempfile.TemporaryDirectory() as folder:
                source, out = Path(folder, "raw"), Path(folder, "out")
                if 5 * size * 1e9 > shutil.disk_usage(folder).free:
                    raise SystemExit(f"{folder}: less than {5 * size:g} GB are free; set TMPDIR to a larger disk")
                count = write(source, size * 1e9, by)
                started = time.monotonic()
                held = preparing("table", source, out, "dataset.time_unit=s", "workers=2")
                seconds, found = time.monotonic() - started, read_manifest(out)
                assert sum(shard.samples for shard in found.shards) == count
                assert (
                    sum(found.stats.observed or ())
                    == sum(shard.samples for shard in found.of("train")) * CHANNELS * TIMES
                )
                written = sum(path.stat().st_size for path in source.iterdir()) / 1e9
                print(f"{written:>6.2f} {by:>8} {count:>7} {seconds:>8.0f}", end="")
                print("".join(f" {mib:>8.0f}" for mib in held.values()), flush=True)
                most = max(most, *held.values())
    raise SystemExit(int(most > AT_MOST))


if __name__ == "__main__":
    main(tuple(map(float, sys.argv[1:])) or SIZES)
