"""Measure the memory of preparing and loading a real sample at 1x, 10x and 100x its size, as copies of its files.

    python -m benchmarks.data.memory                     the chorales of music21
    python -m benchmarks.data.memory timit DIR [1 10]    a data set's own files; numbers of copies of each

The peak memory, in MiB, of any process of a kind is printed: the driver, the Ray workers, the children that parse, and
a process that reads one epoch as a rank does. Memory held before the first file is included.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.measure import memory, peak
from pipeline.fetch.chorales import write_chorales
from pipeline.observe import ObservationConfig
from pipeline.reading.stream import Stream
from pipeline.shards.manifest import read_manifest

SIZES = (1, 10, 100)
KINDS = {"driver": "launch.cli", "worker": "ray::", "parser": "pipeline.prepare.guard"}
"""Text in the command line of each kind of process."""


def repeat(source: Path, target: Path, times: int) -> None:
    """Link each file of `source` at `target/copyN/...`, so that a hundred copies need no disk space."""
    for path in source.rglob("*"):
        if path.is_file():
            for copy in range(times):
                link = target / f"copy{copy}" / path.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(path.resolve(), link)


def preparing(name: str, source: Path, out: Path, *settings: str) -> dict[str, float]:
    """Prepare with one worker, and return the peak memory in MiB by kind of process."""
    return running("prepare", f"configs/prepare/{name}.yaml", f"source={source}", f"out={out}", "workers=1", *settings)


def running(*words: str) -> dict[str, float]:
    """Run a command of driftwork, and return the peak memory in MiB by kind of process."""
    command = [sys.executable, "-m", "launch.cli", *words]
    most = dict.fromkeys(KINDS, 0.0)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        driver = psutil.Process(job.pid)
        while job.poll() is None:
            with suppress(psutil.Error):
                for process in (driver, *driver.children(recursive=True)):
                    with suppress(psutil.Error, OSError, StopIteration):
                        command_line = " ".join(process.cmdline())
                        for kind, words in KINDS.items():
                            if words in command_line:
                                most[kind] = max(most[kind], peak(process.pid))
            time.sleep(0.2)
        assert job.stderr is not None
        if job.returncode:
            raise SystemExit(job.stderr.read())
    return most


def reading(folder: Path):
    """Return a step that reads one epoch of the train split, in batches of 32."""

    def epoch() -> None:
        observation = ObservationConfig(pattern="random", ratios=(0.25,))
        stream = Stream(folder, read_manifest(folder), "train", observation, batch_size=32, seed=0, shuffle=True)
        for _ in stream.epoch(0):
            pass

    return epoch


def main(name: str, source: Path, sizes: tuple[int, ...]) -> None:
    print(f"{source}: peak memory, MiB\n{'size':>5} {'files':>8} {'sequences':>9}", end="")
    print("".join(f" {kind:>8}" for kind in (*KINDS, "loader")), flush=True)
    for times in sizes:
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            raw, out = Path(folder) / "raw", Path(folder) / "out"
            repeat(source, raw, times)
            held = preparing(name, raw, out)
            manifest = read_manifest(out)
            held["loader"] = memory(reading, out)
            sequences = sum(shard.samples for shard in manifest.shards)
            print(f"{times:>4}x {manifest.items:>8} {sequences:>9}", end="")
            print("".join(f" {mib:>8.0f}" for mib in held.values()), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]), tuple(map(int, sys.argv[3:])) or SIZES)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            chorales = Path(temporary) / "chorales"
            write_chorales(chorales)
            main("chorales", chorales, SIZES)
