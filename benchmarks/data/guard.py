"""Compare building shards from raw files that are read in a limited child process, or in the writing process itself.

    python -m benchmarks.data.guard              music21's chorales, joined to the length of songs, four times
    python -m benchmarks.data.guard timit DIR    a data set's own files

Each repetition builds all shards once in either way, in turn. The time to start the child, once per worker, is printed
separately; Ray's own start takes ten times as long. The criterion is the processor time of both processes, since all
cores are busy in practice: the exit code is 1 if its ratio is above 1.5 in every repetition. Wall-clock time depends on
other load and is only printed.
"""

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks.data.memory import repeat
from benchmarks.data.midi import songs
from pipeline.prepare import build
from pipeline.prepare.guard import Guard, Limits
from pipeline.prepare.plan import Recipe, make_plan
from pipeline.readers.registry import DatasetConfig, reader
from pipeline.sequence import Item, Sequence, UnreadableError

AT_MOST = 1.5
REPETITIONS = 5


class Unguarded(Guard):
    def read(self, item: Item) -> list[Sequence]:
        return self.reader.read(self.source, item)


def seconds(kind: type[Guard], recipe: Recipe, source: Path, *, shards: bool = True) -> NDArray[np.float64]:
    """Return [processor, wall-clock] seconds that one worker takes for a file, and then for all shards of `source`."""
    made, limits = reader(recipe.dataset), Limits(20, 2048)
    items = made.find(source)
    with tempfile.TemporaryDirectory() as out:
        job = build.Job(recipe, made, source, Path(out), limits)
        clock, processor = time.perf_counter(), sum(os.times()[:4])
        used = kind(made, source, limits)
        with suppress(UnreadableError):
            used.read(items[0])
        with mock.patch.object(build, "guard", return_value=used):
            for plan in make_plan(items, recipe, {}) if shards else []:
                build.build_shard(job, plan)
        clock = time.perf_counter() - clock
        used.close()  # afterwards the child's time is known
        return np.array([sum(os.times()[:4]) - processor, clock])


def main(name: str, source: Path) -> None:
    config = TypeAdapter(DatasetConfig).validate_python({"name": name})
    recipe = Recipe(dataset=config, title="benchmark", licence="none")
    seconds(Unguarded, recipe, source)  # the first reads the disk
    found = np.array([
        (seconds(Unguarded, recipe, source), seconds(Guard, recipe, source),
         seconds(Guard, recipe, source, shards=False))
        for _ in range(REPETITIONS)
    ])  # fmt: skip
    plain, guarded, start = found.transpose(1, 2, 0)  # [measure, repetition] each
    print(f"{source}: all shards of {name} by one worker, {REPETITIONS} repetitions (medians)")
    ratios = (guarded - start) / plain
    for i, measure in enumerate(("processor", "clock")):
        took = [np.median(way[i]) for way in (plain, guarded - start, start)]
        print(f"{measure}: unguarded {took[0]:.2f} s, guarded {took[1]:.2f} s, and {took[2]:.2f} s to start the child")
        low, ratio, high = np.quantile(ratios[i], (0, 0.5, 1))
        print(f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}); required: at most {AT_MOST}")
    raise SystemExit(int(ratios[0].min() > AT_MOST))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            repeat(songs(Path(temporary)), Path(temporary) / "raw", 4)
            main("lakh", Path(temporary) / "raw")
