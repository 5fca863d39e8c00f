"""Compare the scores of runs on the double Ornstein-Uhlenbeck process with the best possible ones.

    python -m benchmarks.double_ou RUN...

Every entry of the test split is predicted from all earlier frames. Three scores are printed, each with its standard
error over sequences: the negative log-likelihood in nats per entry (its bound for a model with a latent), its excess
over the first limit in %, and the mean square error. There are two limits: no model with a separate distribution for
each channel of a frame can pass the first, and none with a joint distribution of both can pass the second.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.double_ou.oracle import limit
from launch.runs import loaders, run_folder, weights
from launch.runs.distributed import alone
from models.base import LatentDynamics
from pipeline.reading.stream import Stream
from pipeline.shards.manifest import read_manifest

Array = NDArray[np.float64]


class Scores(NamedTuple):
    """Sums of the scores over the entries of each sequence."""

    nll: Array
    """[N] negative log-likelihood, in nats."""
    squares: Array
    """[N] sum of the squared errors of the mean."""
    entries: Array
    """[N] number of entries."""


def of_limit(stream: Stream) -> tuple[Scores, Scores]:
    """Return two scores of the exact filter: for each channel by itself, and for both channels of a frame jointly."""
    rows = []
    for batch in stream.epoch(0):
        assert batch.entries, "masks are of channels"
        fields = (batch.times.numpy(), batch.values.numpy().astype(np.float64), batch.observed.numpy())
        for times, values, observed in zip(*fields, strict=True):
            length = 1 + int(np.flatnonzero(observed.any(axis=1)).max())
            found = limit(times[:length], values[:length], observed[:length])
            errors = np.square(found.mean - values[:length])[observed[:length]]
            rows.append((-found.log_density.sum(), -found.joint, errors.sum(), observed.sum()))
    marginal, joint, squares, entries = np.array(rows).T
    return Scores(marginal, squares, entries), Scores(joint, squares, entries)


def of_run(folder: Path) -> tuple[Scores, Stream]:
    """Return the scores of a run, and its test split with all entries observed."""
    config = run_folder.config_of(folder)
    manifest = read_manifest(config.data)
    every = config.observe.evaluate.model_copy(update={"pattern": "random", "ratios": (1.0,)})
    config = config.model_copy(update={"observe": config.observe.model_copy(update={"evaluate": every})})
    (stream,) = loaders.evaluation(config, config.data, manifest, "test", alone()).values()
    model = run_folder.model_for(config, manifest)
    assert isinstance(model, LatentDynamics), f"{config.model.name} does not predict"
    weights.load_best(model, folder, torch.device("cpu"))
    model.eval()
    parts = []
    for batch in stream.epoch(0):
        with torch.inference_mode():
            terms, _ = model.density(batch, config.evaluate.samples)
            mean = model.predict(batch, config.evaluate.samples).mean
        squares = ((mean - batch.values).square() * batch.observed).sum((1, 2))
        entries = batch.observed.sum((1, 2))
        found = torch.stack([terms.kl - terms.log_likelihood, squares, entries])[:, batch.weight > 0]
        parts.append(found.double().numpy())
    return Scores(*np.concatenate(parts, axis=1)), stream


def ratio(sums: Array, entries: Array) -> str:
    """Return the sum per entry and its standard error over sequences."""
    value = sums.sum() / entries.sum()
    error = np.sqrt(np.square(sums - value * entries).sum()) / entries.sum()
    return f"{value:.4f} ± {error:.4f}"


def main(runs: list[Path]) -> None:
    _, stream = of_run(runs[0])
    marginal, joint = of_limit(stream)
    print("| | NLL, nats per entry | above the limit, % | MSE x 1000 |\n|---|---|---|---|")
    for name, scores in (("limit, each channel by itself", marginal), ("limit, both together", joint)):
        row(name, scores, marginal)
    for run in runs:
        scores, _ = of_run(run)
        row(run.name, scores, marginal)


def row(name: str, scores: Scores, best: Scores) -> None:
    above = 1 - scores.nll.sum() / best.nll.sum()
    cells = [ratio(scores.nll, scores.entries), f"{100 * above:.1f}", ratio(1000 * scores.squares, scores.entries)]
    print(f"| {' | '.join([name, *cells])} |", flush=True)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
