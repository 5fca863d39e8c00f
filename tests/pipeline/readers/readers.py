"""Readers that misbehave, or need no files, in a module that Ray's workers can import."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.readers.midi import Midi
from pipeline.sequence import DataSpec, Item, Sequence


@dataclass(frozen=True)
class Misbehaves(Midi):
    """The MIDI reader, except for files whose names select a misbehaviour."""

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        for name, does in DEEDS.items():
            if name in item.name:
                does()
        if "innocent" in item.name and _read:  # like damage that a parser left from an earlier file
            os.kill(os.getpid(), signal.SIGSEGV)
        _read.append(item.name)
        return super().read(source, item)


def spin() -> None:
    while True:
        pass


def shout() -> None:
    os.write(1, b"a parser's chatter\n")


DEEDS = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "spin": spin,
    "sleep": lambda: time.sleep(1000),
    "memory": lambda: bytearray(2**40),
    "exit": lambda: os._exit(3),
    "mistake": lambda: {}["key"],
    "stack": lambda: DEEDS["stack"](),
    "shout": shout,
}
_read: list[str] = []


@dataclass(frozen=True)
class KilledOnce(Midi):
    """The MIDI reader, whose worker is killed once, in the middle of the third file."""

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        assert source is not None
        done = source / "reads"
        done.mkdir(exist_ok=True)
        (done / str(len(list(done.iterdir())))).touch()
        if len(list(done.iterdir())) == 3:
            os.kill(os.getppid(), signal.SIGKILL)
        return super().read(source, item)


@dataclass(frozen=True)
class Slow(Midi):
    """The MIDI reader, slowed to two seconds per file; it records its network beside the raw files."""

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        assert source is not None
        seen = source.with_name("seen")
        seen.mkdir(exist_ok=True)
        (seen / Path("/proc/self/ns/net").readlink().name).touch()
        time.sleep(2)
        return super().read(source, item)


@dataclass(frozen=True)
class Waves:
    """A reader of simulated real-valued data with missing frames, which defines the splits of all but the training
    half."""

    config: object

    def spec(self) -> DataSpec:
        return DataSpec(dim=2, length=50, interval=0.1, likelihood="gaussian", units="height in m")

    def find(self, source: Path | None) -> list[Item]:
        splits = ["test", "val", None, None]
        return [Item(f"wave {i}", f"wave {i}", (), splits[i % 4]) for i in range(12)]

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        random = np.random.default_rng(int(item.name.split()[1]))
        values = random.normal(3.0, 2.0, (50, 2)).astype(np.float32)
        key = item.name.replace(" ", "-")
        return [Sequence(key, item.group, np.arange(50) / 10, values, random.random(50) < 0.7)]
