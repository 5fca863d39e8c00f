"""Compare the speed at which one process reads batches with that of a training rank on a CPU core.

    python -m benchmarks.data.loader DATA [CONFIG]    a prepared data set, and a config that fits it

An epoch of batches from the shards and a training step on one of them are measured in turn, in processor seconds of one
thread. The ratio should be at least 20; if it is below 20 in every round, the exit code is 1.
"""

import statistics
import sys
from itertools import cycle
from pathlib import Path

import torch

from benchmarks.measure import timed
from driftwork.config_base import load
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.loaders import training
from launch.runs.run_folder import model_for
from pipeline.shards.manifest import read_manifest

AT_LEAST = 20
ROUNDS = 7


def main(data: Path, path: str) -> None:
    torch.set_num_threads(1)
    config = load(RunConfig, path, [f"data={data}", "ranks=1", "loader_workers=0"])
    manifest = read_manifest(data)
    stream = training(config, manifest, alone())
    model = model_for(config, manifest)
    batches = cycle(list(stream.epoch(0)))
    size = config.train.batch_size

    def step() -> None:
        model(next(batches), 1.0).loss.mean().backward()

    step()
    ratios, reads, steps = [], [], []
    for epoch in range(ROUNDS):
        reads.append(stream.samples / timed(lambda epoch=epoch: [None for _ in stream.epoch(epoch)]))
        steps.append(size / timed(step))
        ratios.append(reads[-1] / steps[-1])
    rate, pace, ratio = map(statistics.median, (reads, steps, ratios))
    print(
        f"{data}: the loader reads {rate:,.0f} sequences/s, a step of {path} processes {pace:,.0f}, ratio {ratio:.0f} "
        f"({min(ratios):.0f} to {max(ratios):.0f}; medians of {ROUNDS}); required: at least {AT_LEAST}"
    )
    raise SystemExit(int(max(ratios) < AT_LEAST))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "configs/train/vsdn_vae_lakh_small.yaml")
