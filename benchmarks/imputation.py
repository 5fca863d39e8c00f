"""Train models of this package and of PyPOTS side by side, and score them on the same held-out frames.

    python -m benchmarks.imputation DATA TO MODEL... [seeds=0,1,2]

DATA is a prepared data set whose sequences have one length, such as hopper. TO is a folder for runs and results;
models that are already there are not trained again. A MODEL is the name of a config in configs/train, or `saits` or
`brits`, which need the extra `pypots`. Every model is trained on the same sequences by its own process, whose processor
time and peak memory are measured, and is given the same frames of the test split at each rate of the config's
`observe.evaluate`. The results are 100 x the mean square error of the other frames, in the units of the data, with its
standard error over sequences, and the range over seeds. The last row is linear interpolation between observed frames.

N sequences, T times, D channels.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from driftwork.config_base import load
from launch.runs import loaders, run_folder, weights
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from pipeline.sequence import Split
from pipeline.shards.manifest import read_manifest

Array = NDArray[np.float32]
CONFIGS = Path("configs/train")
PEERS = ("saits", "brits")


class Task(NamedTuple):
    """Sequences of a split, observed at one rate."""

    values: Array
    """[N, T, D] values of all frames."""
    times: NDArray[np.float64]
    """[N, T] times in seconds."""
    observed: NDArray[np.bool_]
    """[N, T] whether the frame is observed."""


def tasks(config: RunConfig, split: Split) -> dict[str, Task]:
    """Return the sequences of a split with the frames that evaluation observes at each rate, in percent."""
    manifest = read_manifest(config.data)
    found = {}
    for rate, stream in loaders.evaluation(config, config.data, manifest, split, alone()).items():
        batches = list(stream.epoch(0))
        fields = ([getattr(batch, name)[batch.weight > 0].numpy() for batch in batches] for name in Task._fields)
        found[rate] = Task(*(np.concatenate(field) for field in fields))
    return found


def errors(imputed: Array, task: Task) -> NDArray[np.float64]:
    """Return the mean square error [N] of the frames that were not observed."""
    squares = np.square(imputed.astype(np.float64) - task.values).mean(axis=2)
    hidden = ~task.observed
    return (squares * hidden).sum(axis=1) / hidden.sum(axis=1)


def lines(task: Task) -> Array:
    """Return linear interpolations between observed frames, constant before the first and after the last."""
    filled = np.empty_like(task.values)
    for out, values, times, observed in zip(filled, *task, strict=True):
        for channel in range(values.shape[1]):
            out[:, channel] = np.interp(times, times[observed], values[observed, channel])
    return filled


def of_run(folder: Path, config: RunConfig) -> dict[str, Array]:
    """Return the interpolations of a trained run at each rate."""
    manifest = read_manifest(config.data)
    model = run_folder.model_for(config, manifest)
    weights.load_best(model, folder, torch.device("cpu"))
    model.eval()
    filled = {}
    for rate, stream in loaders.evaluation(config, config.data, manifest, "test", alone()).items():
        with torch.inference_mode():
            means = [
                model.interpolate(batch, config.evaluate.samples).mean[batch.weight > 0] for batch in stream.epoch(0)
            ]
        filled[rate] = torch.cat(means).numpy()
    return filled


def trained(command: list[str]) -> tuple[float, float]:
    """Run a training and return its processor seconds and its peak memory, MiB."""
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}; see its output above")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def result(data: Path, to: Path, name: str, seed: int) -> dict[str, Any]:
    """Train and score a model, or read the result of an earlier call."""
    path = to / f"{name}-{seed}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    run, peer = to / f"{name}-{seed}", name in PEERS
    base = CONFIGS / f"vsdn_vae_{data.name}_small.yaml" if peer else CONFIGS / f"{name}.yaml"
    config = load(RunConfig, base, [f"data={data}", f"train.seed={seed}", f"tracking.uri=sqlite:///{to}/mlflow.db"])
    if peer:
        command = ["-m", "benchmarks.peers.pypots", name, str(base), str(data), str(seed), f"{run}.npz"]
    else:
        command = ["-m", "launch.cli", "train", str(base), f"data={data}", f"out={run}", f"train.seed={seed}",
                   f"tracking.uri={config.tracking.uri}"]  # fmt: skip
    seconds, mib = trained([sys.executable, *command])
    filled = dict(np.load(f"{run}.npz", allow_pickle=False)) if peer else of_run(run, config)
    scored = {rate: errors(filled[rate], task).tolist() for rate, task in tasks(config, "test").items()}
    found = {"seconds": seconds, "mib": mib, "errors": scored}
    path.write_text(json.dumps(found))
    return found


def cell(each: list[list[float]]) -> str:
    """Return 100 x the mean over seeds and sequences, its standard error, and the range over seeds."""
    scores = 100 * np.array(each)
    error = scores.mean(axis=0).std(ddof=1) / scores.shape[1] ** 0.5
    means = scores.mean(axis=1)
    spread = f" ({means.min():.3f} to {means.max():.3f})" if len(means) > 1 else ""
    return f"{means.mean():.3f} ± {error:.3f}{spread}"


def main(data: Path, to: Path, names: list[str], seeds: list[int]) -> None:
    to.mkdir(parents=True, exist_ok=True)
    found = {name: [result(data, to, name, seed) for seed in seeds] for name in names}
    config = load(RunConfig, CONFIGS / f"vsdn_vae_{data.name}_small.yaml", [f"data={data}"])
    scored = tasks(config, "test")
    print(
        f"| | {' | '.join(f'{rate} %' for rate in scored)} | processor s | MiB |\n|---|{'---|' * len(scored)}---|---|"
    )
    for name, results in found.items():
        cells = [cell([one["errors"][rate] for one in results]) for rate in scored]
        cost = [f"{statistics.median(one[key] for one in results):.0f}" for key in ("seconds", "mib")]
        print(f"| {' | '.join([name, *cells, *cost])} |")
    cells = [cell([errors(lines(task), task).tolist()]) for task in scored.values()]
    print(f"| {' | '.join(['straight lines', *cells])} | – | – |")


if __name__ == "__main__":
    words = [word for word in sys.argv[3:] if not word.startswith("seeds=")]
    chosen = next((word.removeprefix("seeds=") for word in sys.argv[3:] if word.startswith("seeds=")), "0,1,2")
    main(Path(sys.argv[1]), Path(sys.argv[2]), words, [int(seed) for seed in chosen.split(",")])
