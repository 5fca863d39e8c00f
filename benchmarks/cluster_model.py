"""Model the time of a training step on 1 to 1024 GPUs, from measured sizes and assumed rates of the hardware.

    python -m benchmarks.cluster_model DATA CONFIG [SEQUENCES]    a prepared data set, and a config that fits it

With SEQUENCES, the size of a published training split, memory, steps and hours of a whole run are printed too.

The benchmark measures weights, floating-point operations and kernel calls of a step, bytes kept for the backward pass,
bytes and frames of a sequence, and the sequences that the loader reads per second. The rates in `Hardware` are assumed;
replace them by those of your own cluster.

The model is that of `driftwork plan` (`launch.planning`).
"""

import sys
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from driftwork.config_base import load
from launch.planning import hardware as model
from launch.planning.hardware import Hardware, longest, step
from launch.planning.sizes import Sizes, measure
from launch.runs.config import RunConfig
from pipeline.shards.manifest import read_manifest

GPUS = (1, 8, 64, 1024)
GPUS_OF_A_RUN = (1, 8, 16)


def run_table(config: RunConfig, sizes: Sizes, hardware: Hardware, frames: NDArray[np.int64], sequences: int) -> None:
    """Print memory, steps and hours of a run of the published length, at the published batch size in total and per
    GPU."""
    print("   GPUs  batch  GiB/GPU  steps per epoch  epochs at most  hours at most")
    rng, epochs = np.random.default_rng(0), config.train.max_epochs
    for gpus in GPUS_OF_A_RUN:
        for total in dict.fromkeys((config.train.batch_size, config.train.batch_size * gpus)):
            each = ceil(total / gpus)
            memory = sum(model.memory(sizes, gpus, each, config.optim.zero_stage, config.optim.ema > 0).values())
            seconds = sum(step(sizes, hardware, gpus, each, longest(frames, gpus, each, rng)))
            steps = ceil(sequences / total)
            print(f"{gpus:>7}  {total:>5}  {memory / 2**30:>7.2f}  {steps:>15,}  {epochs:>14}  "
                  f"{epochs * steps * seconds / 3600:>13.2f}")  # fmt: skip


def main(data: Path, path: str, sequences: int | None) -> None:
    config = load(RunConfig, path, [f"data={data}", "ranks=1", "loader_workers=0"])
    manifest, hardware, rng = read_manifest(data), Hardware(), np.random.default_rng(0)
    sizes = measure(config, manifest)
    frames = np.array([count for shard in manifest.of("train") for count in shard.frames])
    print(f"{path} on {data}: {sizes.weights:,} weights, {sizes.operations / 1e9:.1f} GFLOP per sequence, "
          f"{sizes.calls:,} kernels per step, {sizes.bytes / 1024:.1f} KiB per sequence, "
          f"loader {sizes.loader:,.0f} sequences/s")  # fmt: skip
    print(hardware)
    print("   GPUs  batch/GPU  step ms  reduce ms  efficiency  sequences/s  loaders/GPU  read MB/s per node")
    published = config.train.batch_size
    for gpus in GPUS:
        for batch in dict.fromkeys((published, published // gpus)):
            if batch == 0:
                print(f"{gpus:>7}  {'-':>9}  a batch of {published} is smaller than the number of GPUs")
                continue
            alone_, _ = step(sizes, hardware, 1, batch, longest(frames, 1, batch, rng))
            took, reduced = step(sizes, hardware, gpus, batch, longest(frames, gpus, batch, rng))
            rate = gpus * batch / (took + reduced)
            print(f"{gpus:>7}  {batch:>9}  {1e3 * (took + reduced):>7.1f}  {1e3 * reduced:>9.2f}  "
                  f"{alone_ / (took + reduced):>10.2f}  {rate:>11,.0f}  {rate / gpus / sizes.loader:>11.2f}  "
                  f"{rate * sizes.bytes / 1e6 * min(gpus, 8) / gpus:>18.1f}")  # fmt: skip
    if sequences is not None:
        run_table(config, sizes, hardware, frames, sequences)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
