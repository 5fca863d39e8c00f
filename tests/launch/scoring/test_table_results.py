"""Results of a table: its files, its curves, runs side by side, and ranks together."""

import json
import math

import numpy as np
import pytest
import torch

from driftwork.config_base import load
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import Ranks
from launch.scoring import calibration, channels, results, side_by_side
from launch.scoring import collect as collecting
from launch.scoring.collect import collect
from launch.scoring.estimates import estimate
from launch.scoring.metrics import METRICS
from launch.scoring.scores import Scoring
from tests.datasets import write_table
from tests.launch.scoring.standin import ENTRIES, FrameByFrame, scored
from tests.places import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries") / "table"
    manifest, written = write_table(folder, D=4, T=12, count=13, binary=("c2",))
    return folder, manifest, written


def test_file_has_clustered_errors_of_each_channel(table, tmp_path):
    found, rate, _ = scored(table, *ENTRIES)
    _, manifest, _ = table
    by_channel = channels.estimated({who: x.channels for who, x in found.items()})
    path = channels.write(tmp_path, "test", manifest.spec.table, by_channel)
    file = json.loads(path.read_text())
    assert file["units"] == {"c0": "", "c1": "", "c2": "", "c3": ""}
    entry = file["scores"]["model"]["interpolation"][rate]["rmse"]["c1"]
    mse = found["model"].channels["interpolation"][rate]["mse"].estimates()[1]
    assert entry["value"] == pytest.approx(math.sqrt(mse.value))
    assert entry["stderr"] == pytest.approx(mse.stderr / (2 * math.sqrt(mse.value)))
    assert entry["groups"] == 13
    printed = channels.table(tmp_path, "test", {"model": "ours", "linear": "linear"})
    assert [row.labels[1] for row in printed.rows[:5]] == ["c0", "c1", "c2", "c3", "c0"]
    assert printed.headings == ["", "channel", "unit", "ours", "linear"]
    assert channels.table(tmp_path / "none", "test", {}) is None


def test_table_results_hold_known_metrics(table):
    """For a table with real-valued and binary channels, the curves are those of intervals."""
    found, rate, _ = scored(table, *ENTRIES)
    kept = calibration.metrics(found["model"].scores)
    assert all(metric in METRICS for columns in kept.values() for x in columns.values() for metric in x)
    assert "ece_percent" in kept["interpolation"][rate]
    points = calibration.curves(found["model"].scores)["interpolation"][rate]
    assert [point.nominal for point in points] == list(range(10, 100, 10))
    own = found["model"].scores["interpolation"][rate]["coverage_50_percent"]
    assert points[4].found == estimate(own)
    assert results.estimates(kept)["interpolation"][rate]["brier"].groups == 13


def test_tables_are_compared_by_standardized_error(table):
    found, _, _ = scored(table, *ENTRIES)
    rows = {who: [calibration.metrics(x.scores)] for who, x in found.items()}
    figures = side_by_side.figures("table", rows)
    assert figures.headings == ["", "NLL 50 %", "pred. 50 %", "interp. 50 %"]
    assert "NLL in nats per entry; MSE in units of each channel's variance" in figures.caption
    assert [row.labels[0] for row in figures.rows] == ["model", "persistence", "nearest", "linear"]
    further = side_by_side.beside("further", rows)
    assert [row.labels[0] for row in further.rows if row.labels[0]] == [
        "CRPS, standardized", "in 50 % interval, %", "in 90 % interval, %", "Brier score", "calibration error, %",
    ]  # fmt: skip


def test_ranks_together_score_as_one(table, monkeypatch):
    """Scores of entries and of channels are equal, for a baseline to the last bit."""
    folder, manifest, _ = table
    config = load(RunConfig, tiny("vsdn_vae"), [f"data={folder}", "evaluate.batch_size=6", *ENTRIES])
    scoring, model, parts = Scoring.of(config, manifest, 1), FrameByFrame(), []
    monkeypatch.setattr(collecting, "all_gathered", lambda mine: parts.append(mine) or [mine])

    def on(rank, world):
        (stream,) = loaders.evaluation(config, folder, manifest, "test", Ranks(rank, world, CPU)).values()
        return collect(scoring.persistence, model, stream.epoch(0), "50", CPU)

    one = on(0, 1)
    parts.clear()
    on(0, 2), on(1, 2)
    both = collecting._sorted(parts)
    assert both.scores == one.scores
    for task, columns in one.channels.items():
        for metric, found in columns["50"].items():
            again = both.channels[task]["50"][metric]
            assert again[:2] == found[:2]
            assert np.array_equal(again.x, found.x)
            assert np.array_equal(again.w, found.w)
