"""Shards whose raw files are read in a child process with limits against shards read in the process that writes them.

    python -m benchmarks.guard              the chorales of music21
    python -m benchmarks.guard timit DIR    a data set's own files

Each repetition builds all shards once in either way, by turns, and starts the child anew, as a worker does once. Ends
with code 1 where the median of the ratios is above the 1.5 that is wanted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from pydantic import TypeAdapter

from pipeline import build
from pipeline.chorales import write_chorales
from pipeline.guard import Guard, Limits
from pipeline.plan import Recipe, make_plan
from pipeline.sequence import Item, Sequence
from pipeline.sources import DatasetConfig, reader

AT_MOST = 1.5
REPETITIONS = 7


class Unguarded(Guard):
    def read(self, item: Item) -> list[Sequence]:
        return self.reader.read(self.source, item)


def seconds(kind: type[Guard], name: str, source: Path) -> float:
    """What all shards of `source` take one worker."""
    config = TypeAdapter(DatasetConfig).validate_python({"name": name})
    recipe = Recipe(dataset=config, title="benchmark", licence="none")
    made, limits = reader(config), Limits(20, 2048)
    with tempfile.TemporaryDirectory() as out:
        job = build.Job(recipe, made, source, Path(out), limits)
        plans = make_plan(made.find(source), recipe)
        start = time.perf_counter()
        used = kind(made, source, limits)
        with mock.patch.object(build, "guard", return_value=used):
            for plan in plans:
                build.build_shard(job, plan)
        taken = time.perf_counter() - start
        used.close()
    return taken


def main(name: str, source: Path) -> None:
    seconds(Unguarded, name, source)  # the first reads the disk
    pairs = [(seconds(Unguarded, name, source), seconds(Guard, name, source)) for _ in range(REPETITIONS)]
    plain, guarded = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(guarded / plain for plain, guarded in pairs)
    ratio = statistics.median(ratios)
    print(f"{source}: all shards of {name} by one worker, {REPETITIONS} repetitions (medians)")
    print(f"unguarded {plain:.2f} s, guarded {guarded:.2f} s")
    print(f"ratio {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), wanted at most {AT_MOST}")
    if ratio > AT_MOST:
        raise SystemExit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            write_chorales(Path(temporary))
            main("lakh", Path(temporary))
