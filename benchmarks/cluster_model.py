"""Model the time of a training step on 1 to 1024 GPUs, from measured sizes and assumed rates of the hardware.

    python -m benchmarks.cluster_model DATA CONFIG [SEQUENCES]    a prepared data set, and a config that fits it

With SEQUENCES, the size of a published training split, also what a whole run takes: memory, steps and hours.

Measured: weights, floating-point operations and calls of kernels of a step, bytes kept for the backward pass, bytes and
frames of a sequence, what the loader reads in a second. Assumed: the rates in `Hardware`; on a cluster of your own, put
its own there.

A step of a rank takes the longer of its arithmetic and of the launching of its kernels, which a loop over time makes
one after another, for as many frames as its longest sequence has. The ranks wait for the slowest, then for the
gradients: an all-reduce that nothing hides, 2 (N - 1) / N of their bytes through the slowest link, and the latency of
a tree.
"""

import sys
import time
from math import ceil, log2
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from driftwork.config_base import load
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.loaders import training
from launch.runs.run_folder import model_for
from models.base import Model
from models.batch import Batch
from pipeline.shards.manifest import Manifest, read_manifest

GPUS = (1, 8, 64, 1024)
GPUS_OF_A_RUN = (1, 8, 16)
STEPS = 1000
"""Number of simulated steps for the mean length of each rank's longest sequence."""


class Hardware(NamedTuple):
    """Assumed rates of nodes with eight H100-class GPUs."""

    operations: float = 2e14
    """Floating-point operations per second that a GPU reaches in bfloat16; a fifth of its nominal rate."""
    launch: float = 5e-6
    """Seconds from one kernel to the next in eager mode."""
    inside: float = 3e11
    """Bytes per second of an all-reduce through NVLink."""
    between: float = 4e10
    """Bytes per second of an all-reduce through the network, with 400 Gbit/s per GPU."""
    latency: float = 1e-5
    """Seconds per step of the tree."""


class Sizes(NamedTuple):
    """Measured sizes of a model and its data."""

    weights: int
    operations: float
    """Floating-point operations for a sequence of full length, forward and backward."""
    calls: int
    """Number of kernel calls in a step on sequences of full length, for any number of sequences."""
    kept: int
    """Bytes kept for the backward pass of a sequence of full length."""
    length: int
    """Frames of a sequence of full length."""
    bytes: float
    """Bytes of a sequence in its shard."""
    loader: float
    """Sequences per second that one process reads."""


class _Calls(TorchDispatchMode):
    """A counter of operations that are kernels: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def bytes_kept(model: Model, batch: Batch) -> int:
    """Return the bytes of all tensors that autograd keeps for the backward pass, without weights, each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model(batch, 1.0).loss  # its graph holds the storages, so that no address is used twice
    assert loss.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in own)


def measure(config: RunConfig, manifest: Manifest) -> Sizes:
    stream = training(config, manifest, alone())
    model = model_for(config, manifest)
    started = time.process_time()
    read = sum(len(batch.weight) for batch in stream.epoch(0))
    loader = read / (time.process_time() - started)
    whole = next(b for b in stream.epoch(0) if b.times.shape[1] == stream.length)
    b = int(whole.present.sum(1).argmax())
    one = whole._replace(**{name: value[b : b + 1] for name, value in whole._asdict().items()})
    with FlopCounterMode(display=False) as flops, _Calls() as calls:
        model(one, 1.0).loss.mean().backward()
    shards = manifest.of("train")
    return Sizes(
        sum(p.numel() for p in model.parameters()), flops.get_total_flops(), calls.number, bytes_kept(model, one),
        stream.length,
        sum(shard.bytes for shard in shards) / stream.samples, loader,
    )  # fmt: skip


def step(sizes: Sizes, hardware: Hardware, gpus: int, batch: int, longest: float) -> tuple[float, float]:
    """Return the seconds of arithmetic or launching, and of communication; `longest` is a fraction of the full
    length."""
    share = sizes.operations * batch / hardware.operations, sizes.calls * hardware.launch
    link = hardware.inside if gpus <= 8 else hardware.between
    reduced = 2 * (gpus - 1) / gpus * 4 * sizes.weights / link + 2 * ceil(log2(gpus)) * hardware.latency
    return max(share) * longest, reduced if gpus > 1 else 0.0


def longest(frames: np.ndarray, ranks: int, batch: int, rng: np.random.Generator) -> float:
    """Return the mean over steps of a rank's longest sequence, for which all ranks wait, as a fraction of the full
    length."""
    drawn = rng.integers(len(frames), size=(STEPS, min(ranks * batch, 4096)))
    return float(frames[drawn].max(1).mean() / frames.max())


def run_table(config: RunConfig, sizes: Sizes, hardware: Hardware, frames: np.ndarray, sequences: int) -> None:
    """Print memory, steps and hours of a run of the published length, at the published batch and at that batch per
    GPU."""
    print("   GPUs  batch  GiB/GPU  steps an epoch  epochs at most  hours at most")
    rng, epochs = np.random.default_rng(0), config.train.max_epochs
    for gpus in GPUS_OF_A_RUN:
        for total in dict.fromkeys((config.train.batch_size, config.train.batch_size * gpus)):
            each = ceil(total / gpus)
            # Weights and gradients in 4 bytes, Adam's moments in 8, which ZeRO stage 1 divides.
            memory = sizes.weights * (8 + 8 / gpus) + each * sizes.kept
            seconds = sum(step(sizes, hardware, gpus, each, longest(frames, gpus, each, rng)))
            steps = ceil(sequences / total)
            print(f"{gpus:>7}  {total:>5}  {memory / 2**30:>7.2f}  {steps:>14,}  {epochs:>14}  "
                  f"{epochs * steps * seconds / 3600:>13.2f}")  # fmt: skip


def main(data: Path, path: str, sequences: int | None) -> None:
    config = load(RunConfig, path, [f"data={data}", "ranks=1", "loader_workers=0"])
    manifest, hardware, rng = read_manifest(data), Hardware(), np.random.default_rng(0)
    sizes = measure(config, manifest)
    frames = np.array([count for shard in manifest.of("train") for count in shard.frames])
    print(f"{path} on {data}: {sizes.weights:,} weights, {sizes.operations / 1e9:.1f} GFLOP a sequence, "
          f"{sizes.calls:,} kernels a step, {sizes.bytes / 1024:.1f} KiB a sequence, "
          f"loader {sizes.loader:,.0f} sequences/s")  # fmt: skip
    print(hardware)
    print("   GPUs  batch/GPU  step ms  reduce ms  efficiency  sequences/s  loaders/GPU  read MB/s a node")
    published = config.train.batch_size
    for gpus in GPUS:
        for batch in dict.fromkeys((published, published // gpus)):
            if batch == 0:
                print(f"{gpus:>7}  {'-':>9}  a batch of {published} has no sequence for each rank")
                continue
            alone_, _ = step(sizes, hardware, 1, batch, longest(frames, 1, batch, rng))
            took, reduced = step(sizes, hardware, gpus, batch, longest(frames, gpus, batch, rng))
            rate = gpus * batch / (took + reduced)
            print(f"{gpus:>7}  {batch:>9}  {1e3 * (took + reduced):>7.1f}  {1e3 * reduced:>9.2f}  "
                  f"{alone_ / (took + reduced):>10.2f}  {rate:>11,.0f}  {rate / gpus / sizes.loader:>11.2f}  "
                  f"{rate * sizes.bytes / 1e6 * min(gpus, 8) / gpus:>16.1f}")  # fmt: skip
    if sequences is not None:
        run_table(config, sizes, hardware, frames, sequences)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
