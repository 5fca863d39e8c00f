"""Compare preparing with one worker and with two, on a running Ray.

    python -m benchmarks.data.workers                the chorales of music21, ten times
    python -m benchmarks.data.workers lakh DIR 10    a data set's own files; number of copies of each

Wall-clock seconds from the call to the manifest are measured, in turn. Two causes for less than twice the speed are
measured separately. Two processes without Ray, which build half of the shards each, share only caches and memory. The
driver works alone before the first shard and after the last. Two idle cores are needed.
"""

import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.data.memory import repeat
from driftwork.config_base import load
from pipeline.fetch.chorales import write_chorales
from pipeline.prepare.build import Job, build_shard
from pipeline.prepare.guard import Limits
from pipeline.prepare.plan import ShardPlan, make_plan
from pipeline.prepare.prepare import PrepareConfig, cluster, prepare
from pipeline.readers.registry import reader

ROUNDS = 3


def prepared(name: str, source: Path, workers: int) -> float:
    """Prepare a data set and return the wall-clock seconds it took."""
    with tempfile.TemporaryDirectory() as out:
        words = [f"source={source}", f"out={out}/data", f"workers={workers}"]
        config = load(PrepareConfig, f"configs/prepare/{name}.yaml", words)
        started = time.perf_counter()
        prepare(config)
        return time.perf_counter() - started


def build(name: str, source: Path, parts: int, part: int) -> float:
    """Build every `parts`-th shard in this process, without Ray, and return the seconds it took."""
    with tempfile.TemporaryDirectory() as out:
        config = load(PrepareConfig, f"configs/prepare/{name}.yaml", [f"source={source}", f"out={out}"])
        limits = Limits(config.seconds_per_file, config.mib_per_file)
        job = Job(config.recipe, reader(config.dataset), source, Path(out), limits)
        plans: list[ShardPlan] = make_plan(job.reader.find(source), config.recipe, {})
        build_shard(job, plans[-1])  # starts the parser
        started = time.perf_counter()
        for plan in plans[part:-1:parts]:
            build_shard(job, plan)
        return time.perf_counter() - started


def main(name: str, source: Path) -> None:
    files = sum(path.is_file() for path in source.rglob("*"))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool, cluster.connected("local", 2):
        prepared(name, source, 2)  # starts the workers and reads the disk
        rounds = []
        for _ in range(ROUNDS):
            one, two = prepared(name, source, 1), prepared(name, source, 2)
            alone = pool.submit(build, name, source, 1, 0).result()
            both = max(half.result() for half in [pool.submit(build, name, source, 2, part) for part in (0, 1)])
            rounds.append((one, two, one / (2 * two), alone / (2 * both), one - alone))
    one, two, together, apart, rest = (statistics.median(column) for column in zip(*rounds, strict=True))
    low, high = min(r[2] for r in rounds), max(r[2] for r in rounds)
    print(f"{files} files of {name}, medians of {ROUNDS} rounds: {one:.1f} s with one worker, {two:.1f} s with two")
    print(f"efficiency: two workers {together:.2f} ({low:.2f} to {high:.2f}), two processes without Ray {apart:.2f}")
    print(f"time of the driver and of Ray outside the shards, with one worker: {rest:.1f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "raw"
        if len(sys.argv) > 2:
            repeat(Path(sys.argv[2]), raw, int(sys.argv[3]))
            main(sys.argv[1], raw)
        else:
            chorales = Path(temporary) / "chorales"
            write_chorales(chorales)
            repeat(chorales, raw, 10)
            main("chorales", raw)
