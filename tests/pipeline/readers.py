"""Readers that misbehave, or need no files. In a module of their own, which Ray's workers can import."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.lakh import Lakh
from pipeline.sequence import DataSpec, Item, Sequence


@dataclass(frozen=True)
class CrashesOn(Lakh):
    """The Lakh reader, but any file with `crash` in its name ends the process."""

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        if "crash" in item.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().read(source, item)


@dataclass(frozen=True)
class KilledOnce(Lakh):
    """The Lakh reader, killed from outside in the middle of its third file, and well from then on."""

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        assert source is not None
        done = source / "reads"
        done.mkdir(exist_ok=True)
        (done / str(len(list(done.iterdir())))).touch()
        if len(list(done.iterdir())) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(source, item)


@dataclass(frozen=True)
class Waves:
    """Simulated, real-valued, with frames missing, and with splits of its own for all but the training half."""

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
