"""Measure the training throughput of one rank and of two, one thread each, through `driftwork train`.

    python -m benchmarks.ranks DATA [CONFIG]    a prepared data set, and a config that fits it

Each rank takes the same number of sequences per step, so that two ranks should have twice the throughput. Two parts of
the loss are measured: two independent jobs of one rank share only memory and caches; the additional loss of two ranks
of one job is due to waiting and communication. Two idle cores are needed.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from pipeline.shards.manifest import read_manifest

ROUNDS = 3
STEPS = 120
BATCH = 32
"""Number of sequences per rank and step."""
LINE = re.compile(
    r"(\d+) seq/s  .*  data (\d+)  forward (\d+)  backward (\d+)  communication (\d+)  update (\d+) ms/step"
)
"""Matches a record of `launch.training.training_log`."""


class Pace(NamedTuple):
    """Medians over the records of a job, without the first two."""

    sequences: float
    """Sequences per second."""
    data: float
    """Time of rank 0 for reading data, in milliseconds per step. The following fields have the same unit."""
    forward: float
    backward: float
    communication: float
    update: float


def job(data: Path, config: str, ranks: int, out: Path) -> subprocess.Popen[str]:
    batch = BATCH * ranks
    samples = sum(shard.samples for shard in read_manifest(data).of("train"))
    epochs = -(-STEPS // -(-samples // batch))
    command = [
        sys.executable, "-m", "launch.cli", "train", config, f"data={data}", f"out={out}", f"ranks={ranks}",
        f"train.batch_size={batch}", f"train.max_epochs={epochs}", f"train.validate_every={epochs}",
        f"tracking.uri=sqlite:///{out}.db",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def paces(data: Path, config: str, *ranks: int) -> list[Pace]:
    """Run jobs with the given numbers of ranks simultaneously, and return the pace of each."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [job(data, config, count, Path(folder) / str(i)) for i, count in enumerate(ranks)]
        said = [job.communicate()[0] for job in jobs]
        if any(job.returncode for job in jobs):
            raise SystemExit("\n".join(said))
    found = []
    for text in said:
        records = [tuple(map(float, line)) for line in LINE.findall(text)][2:]
        found.append(Pace(*(statistics.median(column) for column in zip(*records, strict=True))))
    return found


def main(data: Path, config: str) -> None:
    alone, twins, pair = [], [], []
    for _ in range(ROUNDS):
        alone += paces(data, config, 1)
        twins.append(sum(pace.sequences for pace in paces(data, config, 1, 1)))
        pair += paces(data, config, 2)
    one = statistics.median(pace.sequences for pace in alone)
    print(f"{config} on {data}: {BATCH} sequences per rank, medians of {ROUNDS} rounds")
    show("one rank", alone)
    show("two ranks", pair)
    apart = [both / (2 * pace.sequences) for both, pace in zip(twins, alone, strict=True)]
    together = [both.sequences / (2 * pace.sequences) for both, pace in zip(pair, alone, strict=True)]
    print(
        f"two jobs of one rank at once: {statistics.median(twins):.0f} sequences/s, "
        f"{ratio(apart)} of twice the rate of one job"
    )
    print(f"efficiency of two ranks: {ratio(together)}; one rank alone: {one:.0f} sequences/s")


def show(what: str, found: list[Pace]) -> None:
    sequences, *phases = (statistics.median(column) for column in zip(*found, strict=True))
    spent = ", ".join(f"{name} {ms:.0f}" for name, ms in zip(Pace._fields[1:], phases, strict=True))
    print(f"{what}: {sequences:.0f} sequences/s; ms/step: {spent}")


def ratio(found: list[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "configs/train/vsdn_vae_lakh_small.yaml")
