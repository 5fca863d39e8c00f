"""Some held-out series of a table: what was observed, what was held out, and the model's mean and 90 % interval."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context

from launch.figures import bands, style
from launch.figures.bands import Panel
from launch.prediction.answers import Answerer, Frames, tasks
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring.draws import Draws
from models.base import Model
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest

SERIES = 4
"""Number of series that are drawn: the first of the split, not selected by quality."""
CHANNELS = 4
"""Most channels of a series that are drawn: those with the most observations in the training split."""


@rc_context(style.STYLE)
def write(folder: Path, config: RunConfig, manifest: Manifest, split: Split, model: Model) -> list[Path]:
    """Draw `series` as PNG and PDF; returns the files."""
    spec, table = manifest.spec, manifest.spec.table
    assert table is not None, "the data are no table"
    bernoulli, draws = spec.likelihood == "bernoulli", Draws.of(config.evaluate)
    task = tasks(model, config.observe.evaluate.forecasts)[0]
    answerer = Answerer(model, task, draws, spec.binary, bernoulli, () if bernoulli else (0.05, 0.95))
    streams = loaders.evaluation(config, config.data, manifest, split, alone())
    rate, stream = next(iter(streams.items()))
    sequences = list(answerer.frames(next(stream.epoch(0)).rows(slice(SERIES))))
    counts = np.array(manifest.stats.observed or (0,) * spec.dim)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:CHANNELS]).tolist()
    units = table.units or ("",) * spec.dim
    names = [f"{name} ({unit})" if unit else name for name, unit in zip(table.channels, units, strict=True)]
    rows = [[_panel(frames, d, names[d]) for d in chosen] for frames in sequences]
    observed = "" if config.observe.evaluate.forecasts else f", {rate} % observed"
    title = f"{config.model.name} on {manifest.dataset}, {split} split{observed}: {task} with its 90 % interval"
    return style.save(bands.drawn(rows, title), folder / "series")


def _panel(frames: Frames, channel: int, name: str) -> Panel:
    mean, *others = (values[:, channel] for values in frames.answers.values())
    low, high = (others[-2], others[-1]) if len(others) > 2 else (mean, mean)
    shown, truth = frames.observed[:, channel], frames.truth[:, channel]
    observed, held_out = (np.where(where, truth, np.float32(np.nan)) for where in (shown, ~shown))
    return Panel(frames.key[:-18] or frames.key, name, frames.times, observed, mean, low, high, held_out)
