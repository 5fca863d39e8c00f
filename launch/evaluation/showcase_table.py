"""Draw some held-out series of a table: observed and held-out values, and the model's mean and 90 % interval."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context

from launch.figures import bands, style
from launch.prediction.answers import Answerer, Frames, Task, tasks
from launch.prediction.panels import labels, panel
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring.draws import Draws
from models.base import LatentDynamics, Model, Smoother
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest

SERIES = 4
"""Number of series that are drawn: the first of the split, not selected by quality."""
CHANNELS = 4
"""Maximum number of drawn channels of a series: those with the most observations in the training split."""


@rc_context(style.STYLE)
def write(folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: Model) -> list[Path]:
    """Draw `series` as PNG and PDF, a row for each series, and return the files."""
    sequences, task, rate = _answers(config, manifest, split, model, slice(SERIES))
    chosen = _channels(manifest)
    rows = [[panel(frames, *channel) for channel in chosen] for frames in sequences]
    title = f"{config.model.name} on {manifest.dataset}, {split} split{rate}: {task} with its 90 % interval"
    return style.save(bands.drawn(rows, title), folder / "series")


@rc_context(style.STYLE)
def compare(
    folder: Path, config: RunConfig, manifest: Manifest, split: Split, models: dict[str, LatentDynamics | Smoother]
) -> list[Path]:
    """Draw the first series of the split as `series`, PNG and PDF, with a row for each model, and return the files."""
    rows, rate, task = [], "", ""
    for name, model in models.items():
        (frames,), task, rate = _answers(config, manifest, split, model, slice(1))
        rows.append([panel(frames, *channel, label=name) for channel in _channels(manifest)])
    title = f"A series of {manifest.dataset}, {split} split{rate}: {task} with its 90 % interval"
    return style.save(bands.drawn(rows, title), folder / "series")


def _answers(
    config: RunConfig, manifest: Manifest, split: Split, model: Model, rows: slice
) -> tuple[list[Frames], Task, str]:
    """Return the model's predictions of the first series, their task, and a phrase about the observed fraction."""
    spec, observe = manifest.spec, config.observe.evaluate
    bernoulli, task = spec.likelihood == "bernoulli", tasks(model, observe.forecasts)[0]
    quantiles = () if bernoulli else (0.05, 0.95)
    answerer = Answerer(model, task, Draws.of(config.evaluate), spec.binary, bernoulli, quantiles)
    rate, stream = next(iter(loaders.evaluation(config, config.data, manifest, split, alone()).items()))
    frames = list(answerer.frames(next(stream.epoch(0)).rows(rows)))
    return frames, task, "" if observe.forecasts else f", {rate} % observed"


def _channels(manifest: Manifest) -> list[tuple[int, str]]:
    """Return the drawn channels: their indices and labels."""
    spec, table = manifest.spec, manifest.spec.table
    assert table is not None, "the data are not a table"
    counts = np.array(manifest.stats.observed or (0,) * spec.dim)
    chosen: list[int] = np.sort(np.argsort(-counts, kind="stable")[:CHANNELS]).tolist()
    names = labels(table)
    return [(d, names[d]) for d in chosen]
