"""Evaluation, comparison and predictions of runs on a table."""

import csv
import json

import pytest

from launch import compare, evaluate, predict
from tests.datasets import write_table
from tests.launch.generation.generated import MODEL, untrained


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Provide two runs whose evaluation holds out entries, and one that forecasts."""
    place = tmp_path_factory.mktemp("table")
    write_table(place / "data", D=3, T=8, count=5, binary=("c1",), static=True)
    model, entries = MODEL.format("gru_ode", 0.5), "observe.evaluate={pattern: entries, ratios: [0.5]}"
    beginning = "observe.evaluate={pattern: prefix, fraction: 0.5}"
    settings = {"a": (entries, "train.seed=0"), "b": (entries, "train.seed=1"), "c": (beginning,)}
    return {
        name: untrained(place / name, "vsdn_vae", place / "data", model, "evaluate.batch_size=2", "ranks=1", *more)
        for name, more in settings.items()
    }


def test_command_prints_and_writes_scores_of_a_table(runs, capsys):
    assert evaluate.main([str(runs["a"])]) == 0
    printed = capsys.readouterr().out
    for line in ("NLL, nats/entry", "MSE, standardized", "Brier score", "RMSE by channel", "linear", "nearest"):
        assert line in printed
    folder = runs["a"]
    names = {path.name for path in folder.iterdir()} | {path.name for path in (folder / "outputs").iterdir()}
    assert {"evaluation-test.json", "evaluation-test-channels.json", "series.png", "reliability.png"} <= names
    scores = json.loads((folder / "evaluation-test.json").read_text())["model"]
    assert scores["interpolation"]["50"]["mse_standardized"]["n"] == 5
    of_channels = json.loads((folder / "evaluation-test-channels.json").read_text())["scores"]["model"]
    assert of_channels["interpolation"]["50"]["brier"].keys() == {"c0", "c1", "c2"}
    assert of_channels["interpolation"]["50"]["brier"]["c0"]["value"] is None  # no entry is a probability


def test_seeds_on_a_table_are_compared(runs, capsys):
    for name in ("a", "b"):
        evaluate.main([str(runs[name])])
    capsys.readouterr()
    assert compare.main([str(runs["a"]), str(runs["b"]), "split=test"]) == 0
    printed = capsys.readouterr().out
    assert "gru_ode (2 seeds)" in printed
    assert "channel's" in printed


def test_forecast_of_a_table_is_scored(runs, capsys):
    assert evaluate.main([str(runs["c"])]) == 0
    assert "forecast" in capsys.readouterr().out
    scores = json.loads((runs["c"] / "evaluation-test.json").read_text())
    assert list(scores) == ["model", "persistence"]
    assert list(scores["model"]) == ["forecast"]


def test_table_predictions_are_beside_its_values(runs, tmp_path):
    assert predict.main([str(runs["a"]), f"out={tmp_path / 'p.csv'}", "quantiles=[0.5]"]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert len(rows) == 5 * 8 * 3
    assert {row["observed"] for row in rows if row["truth"] == ""} == {"false"}
    assert {row["observed"] for row in rows} == {"true", "false"}
