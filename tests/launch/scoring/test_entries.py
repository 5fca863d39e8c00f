"""Scores of a table against plain numpy, entry by entry, and against scores of frames."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from driftwork.config_base import load
from launch.runs import loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring import metrics
from launch.scoring.entries import Entries
from launch.scoring.ratio import Ratio
from launch.scoring.scores import Scoring
from models.parts.networks import Normal
from models.predictive import Predictive
from tests.datasets import write_table, write_walks
from tests.launch.scoring.standin import ENTRIES, Fixed, FrameByFrame, scored
from tests.places import tiny

CLOSE = 1e-5  # a handful of products in single precision, of numbers of order 1


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries") / "table"
    manifest, written = write_table(folder, D=4, T=12, count=13, binary=("c2",))
    return folder, manifest, written


def answers(times):
    t = (times - times[0]) / 10
    mean = np.stack([np.sin(t), np.cos(t), np.cos(t) ** 2, -np.sin(t)], 1)
    return mean, np.exp(0.1 * t[:, None] + np.arange(4.0))


def crps_of(mean, std, y):
    z = (y - mean) / std
    return std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))


def ratio(found, *path):
    for key in path:
        found = found[key]
    return np.sum(found.x, axis=0) / np.sum(found.w, axis=0)


def of_entries(table, shown, task):
    """Return the scored entries as lists of (channel, sequence, frame), sequence by sequence."""
    _, _, written = table
    found = []
    for key, observed in shown.items():
        n = len(written[key].times)
        held_out = written[key].mask & ~observed[:n]
        again = observed[:n] & (np.cumsum(observed[:n].any(1)) > 1)[:, None]
        chosen = held_out if task == "interpolation" else again
        found += [(d, key, t) for t, d in np.argwhere(chosen)]
    return found


@pytest.mark.parametrize("task", ["interpolation", "prediction"])
def test_scores_match_plain_numpy(table, task):
    found, rate, shown = scored(table, *ENTRIES)
    _, manifest, written = table
    sums = {name: [] for name in ("mse", "crps", "in90", "in50", "brier")}
    by_channel = [[] for _ in range(4)]
    for d, key, t in of_entries(table, shown, task):
        mean, std = (x[t, d] for x in answers(written[key].times))
        y, scale = float(written[key].values[t, d]), manifest.stats.scale[d]
        sums["mse"].append(((mean - y) / scale) ** 2)
        by_channel[d].append((mean - y) ** 2)
        if d == 2:
            sums["brier"].append((mean - y) ** 2)
            continue
        sums["crps"].append(crps_of(mean, std, y) / scale)
        for level in (50, 90):
            low, high = norm.interval(level / 100, mean, std)
            sums[f"in{level}"].append(100.0 * (low <= y <= high))
    names = {
        "mse": "mse_standardized", "crps": "crps_standardized", "in90": "coverage_90_percent",
        "in50": "coverage_50_percent", "brier": "brier",
    }  # fmt: skip
    of_model = found["model"]
    for own, name in names.items():
        metric = of_model.scores[task][rate][name]
        assert sum(metric.w) == len(sums[own]) > 10
        assert ratio(of_model.scores, task, rate, name) == pytest.approx(np.mean(sums[own]), rel=CLOSE)
    wanted = [np.mean(squares) for squares in by_channel]
    np.testing.assert_allclose(ratio(of_model.channels, task, rate, "mse"), wanted, rtol=CLOSE)
    assert of_model.channels[task][rate]["crps"].w[:, 2].sum() == 0  # a probability has no CRPS here


def test_baselines_predict_by_channel(table):
    found, rate, shown = scored(table, *ENTRIES)
    _, manifest, written = table
    squares = {"persistence": [], "nearest": [], "linear": []}
    for d, key, t in of_entries(table, shown, "interpolation"):
        times, values = written[key].times, written[key].values[:, d].astype(float)
        seen = np.flatnonzero(shown[key][: len(times), d])
        before, mean = seen[seen < t], manifest.stats.mean[d]
        gaps = np.abs(times[seen] - times[t])
        guesses = {
            "persistence": values[before[-1]] if len(before) else mean,
            "nearest": values[seen[np.argmin(gaps)]] if len(seen) else mean,
            "linear": np.interp(times[t], times[seen], values[seen]) if len(seen) else mean,
        }
        for who, guess in guesses.items():
            squares[who].append(((guess - values[t]) / manifest.stats.scale[d]) ** 2)
    assert set(found) == {"model", *squares}
    for who, wanted in squares.items():
        assert ratio(found[who].scores, "interpolation", rate, "mse_standardized") == pytest.approx(
            np.mean(wanted), rel=CLOSE
        )


def test_density_is_counted_by_entry(table):
    found, rate, shown = scored(table, *ENTRIES)
    nll = found["model"].scores["density"][rate]["nll_nats_per_entry"]
    assert nll.w == tuple(float(shown[key].sum()) for key in nll.keys)


def test_same_entries_are_held_out_in_any_batch(table):
    (one, rate, shown), (other, _, again) = (scored(table, *ENTRIES, batch_size=size) for size in (2, 13))
    for key, observed in shown.items():
        n = len(table[2][key].times)
        assert np.array_equal(observed[:n], again[key][:n])
    for who, x in one.items():
        for task, columns in x.scores.items():
            for metric, scores in columns[rate].items():
                assert scores[:2] == other[who].scores[task][rate][metric][:2]
                np.testing.assert_allclose(scores.x, other[who].scores[task][rate][metric].x, rtol=CLOSE, atol=CLOSE)


def test_entries_observed_together_score_as_frames(tmp_path):
    """Whole frames of a table have the likelihood, CRPS and coverage that they have as frames."""
    manifest, _ = write_walks(tmp_path / "walks", lengths=(20, 14, 17))
    config = load(RunConfig, tiny("vsdn_vae"), [f"data={tmp_path / 'walks'}"])
    frames, D = Scoring.of(config, manifest, 1), manifest.spec.dim
    table = Entries(torch.zeros(D), torch.ones(D), torch.zeros(D, dtype=torch.bool))
    stream = loaders.evaluation(config, config.data, manifest, "test", alone())["25"]
    batch = next(stream.epoch(0))
    together = batch.changed(present=batch.entries_present, observed=batch.entries_observed)

    class Wide(FrameByFrame):
        def predict(self, batch, samples):
            class Gaussians(Fixed):
                width = 2 * D

                def expectation(self, parameters):
                    return parameters[..., :D]

                def frame(self, parameters):
                    return Normal(*parameters.chunk(2, -1))

            t = batch.times.float()[..., None]
            mean = t.sin() * torch.arange(D)
            return Predictive(Gaussians(), lambda s: torch.cat([mean + s, mean / 100], -1), 2)

        interpolate = predict

    ours = frames._replace(table=table).model(Wide(), together, "25")
    theirs = frames.model(Wide(), batch, "25")
    for task in ("prediction", "interpolation"):
        one, other = ours[task]["25"], theirs[task]["25"]
        for name, same in (("crps_standardized", "crps"), ("coverage_50_percent",) * 2, ("coverage_90_percent",) * 2):
            torch.testing.assert_close(
                one[name].x / one[name].w, other[same].x / other[same].w, rtol=CLOSE, atol=1e-9, check_dtype=False
            )
            assert torch.equal(one[name].w, other[same].w * D)
    one, other = ours["density"]["25"]["nll_nats_per_entry"], theirs["density"]["25"]["nll_nats_per_dimension"]
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.w, other.w)


@pytest.mark.parametrize("prefix", [{"frames": 3}, {"seconds": 2.5}, {"fraction": 0.3}])
def test_forecast_scores_what_follows_the_beginning(table, prefix):
    (length,) = prefix.items()
    observe = f"observe.evaluate={{pattern: prefix, {length[0]}: {length[1]}}}"
    found, _, shown = scored(table, observe, "evaluate.horizons=[2]")
    _, manifest, written = table
    whole = "9" if "frames" in prefix else "11"
    assert set(found) == {"model", "persistence"}
    assert list(found["model"].scores["forecast"]) == ["2", whole]
    counts, squares = {"2": 0, whole: 0}, []
    for key, observed in shown.items():
        times, present = written[key].times, written[key].mask
        first = int(observed.any(1).sum())  # every frame of these series has an entry
        counts["2"] += present[first : first + 2].sum()
        counts[whole] += present[first:].sum()
        for t, d in np.argwhere(present[first:]):
            seen = np.flatnonzero(present[:first, d])
            guess = written[key].values[seen[-1], d] if len(seen) else manifest.stats.mean[d]
            squares.append(((guess - written[key].values[first + t, d]) / manifest.stats.scale[d]) ** 2)
        assert len(times) > first > 0
    for horizon, count in counts.items():
        assert sum(found["model"].scores["forecast"][horizon]["mse_standardized"].w) == count
    held = ratio(found["persistence"].scores, "forecast", whole, "mse_standardized")
    assert held == pytest.approx(np.mean(squares), rel=CLOSE)


def test_metric_of_frames_is_counted_by_entry(table, monkeypatch):
    """A metric of a plugin gets each channel as a separate sequence."""

    def absolute_error(mean, truth, scored):
        return Ratio(((mean - truth).abs().mean(-1) * scored).sum(1), scored.sum(1))

    monkeypatch.setitem(metrics.ADDED, "mae", absolute_error)
    found, rate, shown = scored(table, *ENTRIES)
    _, _, written = table
    errors = []
    for d, key, t in of_entries(table, shown, "interpolation"):
        errors.append(abs(answers(written[key].times)[0][t, d] - float(written[key].values[t, d])))
    mae = found["model"].scores["interpolation"][rate]["mae"]
    assert sum(mae.w) == len(errors)
    assert sum(mae.x) / sum(mae.w) == pytest.approx(np.mean(errors), rel=CLOSE)
