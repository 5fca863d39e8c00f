"""`driftwork plan CONFIG.yaml data=DIR gpus=N [key=value ...]`: estimate memory and time of training on N GPUs, before
any are rented. Memory, kernels and operations are counted on this machine; times follow from a model of the hardware.
"""

import sys
from math import ceil

import numpy as np
from numpy.typing import NDArray

from driftwork.command import command, run
from driftwork.help import settings_of_file
from launch.planning import hardware
from launch.planning.hardware import Hardware
from launch.planning.sizes import Sizes, measure
from launch.runs import run_folder
from launch.runs.config import RunConfig, parse
from pipeline.shards.cache import find_manifest, local
from pipeline.shards.manifest import Manifest

USAGE = """usage: driftwork plan CONFIG.yaml [data=DIR|URL] [gpus=N] [key=value ...]
  CONFIG.yaml  Config of a run, as in configs/train.
  gpus=N       Number of GPUs, by default the config's ranks."""


@command(USAGE, settings=lambda words: settings_of_file(RunConfig, [word for word in words if word[:5] != "gpus="]))
def main(argv: list[str]) -> int:
    words = [f"ranks={word[5:]}" if word.startswith("gpus=") else word for word in argv]
    config = parse(words)
    manifest = find_manifest(config.data, config.cache_dir)
    config = config.model_copy(update={"data": local(config.data, config.cache_dir, manifest, thorough=False)})
    manifest = run_folder.divided(config, manifest)
    print(f"{words[0]} on {config.data}, {config.ranks} GPU(s)\n")
    found = lines(config, manifest, measure(config, manifest))
    widths = [max(len(line[k]) for line in found) for k in (0, 1)]
    for name, figure, how in found:
        print(f"  {name:{widths[0]}}  {figure:>{widths[1]}}  {how}".rstrip())
    print(f"\ncounted: on this machine, in the eager form of the loops. modelled: by {Hardware()}")
    return 0


def lines(config: RunConfig, manifest: Manifest, sizes: Sizes) -> list[tuple[str, str, str]]:
    """Return rows of (name, value, source of the value), where the source is counted or modelled."""
    assumed, gpus, batch = Hardware(), config.ranks, config.train.batch_size
    each = ceil(batch / gpus)
    parts = min(config.train.accumulate, each)
    frames = np.array([count for shard in manifest.of("train") for count in shard.frames])
    alone, took, reduced = times(sizes, assumed, frames, gpus, each, parts)
    memory = hardware.memory(sizes, gpus, ceil(each / parts), config.optim.zero_stage, config.optim.ema > 0)
    seconds, steps, epochs = took + reduced, ceil(len(frames) / batch), config.train.max_epochs
    return [
        ("weights", f"{sizes.weights:,}", "counted"),
        *((f"memory of {name} per GPU", _bytes(size), "counted") for name, size in memory.items() if size),
        ("total memory per GPU", _bytes(sum(memory.values())), "counted, without the context and workspaces"),
        ("sequences per step", f"{batch:,}", f"{each} per GPU" + (f", in {parts} micro-batches" if parts > 1 else "")),
        ("kernel launches per step", f"{parts * sizes.calls:,}", "counted, at full length"),
        ("operations per step and GPU", f"{each * sizes.operations / 1e9:,.1f} GFLOP", "counted, at full length"),
        ("step", f"{1e3 * seconds:,.1f} ms", "modelled"),
        ("all-reduce in a step", f"{1e3 * reduced:,.2f} ms", "modelled"),
        ("efficiency", f"{alone / seconds:.2f}", "modelled; 1 is one GPU with its part of the batch"),
        ("sequences per second", f"{batch / seconds:,.0f}", "modelled"),
        (
            "loader processes per GPU",
            f"{batch / seconds / gpus / sizes.loader:.2f}",
            "modelled, from the measured rate of one",
        ),
        ("steps per epoch", f"{steps:,}", "counted"),
        (f"{epochs} epochs", f"{epochs * steps * seconds / 3600:,.2f} h", "modelled, without validation"),
    ]


def times(
    sizes: Sizes, assumed: Hardware, frames: NDArray[np.int64], gpus: int, each: int, parts: int
) -> tuple[float, float, float]:  # fmt: skip
    """Return the seconds of a step without communication on one GPU and on all, and of its communication."""
    rng, at_a_time = np.random.default_rng(0), ceil(each / parts)

    def of(ranks: int) -> tuple[float, float]:
        fraction = hardware.longest(frames, ranks, at_a_time, rng)
        return hardware.step(sizes, assumed, ranks, at_a_time, fraction)

    (alone, _), (took, reduced) = of(1), of(gpus)
    return parts * alone, parts * took, reduced


def _bytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 1e8 else f"{size / 2**20:.2f} MiB"


if __name__ == "__main__":
    raise SystemExit(run("plan", main, sys.argv[1:]))
