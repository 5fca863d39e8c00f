"""Results as files and as tables in the terminal."""

import pytest

from driftwork.config_base import flatten, load
from driftwork.errors import DriftworkError
from launch.runs.config import RunConfig
from launch.scoring import comparison
from launch.scoring.estimates import Estimate, Scores
from launch.scoring.results import read_results, read_scores, show, write_results
from tests.places import tiny


def test_metric_without_its_plugin_is_left_out(tmp_path):
    scores = Scores(("a", "b"), ("a", "b"), (1.0, 2.0), (1.0, 1.0))
    write_results(tmp_path, "test", {"model": {"prediction": {"25": {"rmse": scores, "of_a_plugin": scores}}}})
    assert "of_a_plugin" in (tmp_path / "evaluation-test-sequences.json").read_text()
    assert read_scores(tmp_path, "test") == {"model": {"prediction": {"25": {"rmse": scores}}}}


def test_plugins_do_not_distinguish_runs():
    config = flatten(load(RunConfig, tiny("vsdn_vae")))
    assert comparison.settings(config | {"plugins": ["my_figure"]}) == comparison.settings(config)


def test_damaged_scores_are_named(tmp_path):
    scores = Scores(("a", "b"), ("a", "b"), (1.0, 2.0), (1.0, 1.0))
    for path in write_results(tmp_path, "test", {"model": {"prediction": {"25": {"rmse": scores}}}}):
        path.write_text(path.read_text()[:20])
    for read in (read_scores, read_results):
        with pytest.raises(DriftworkError, match=r"evaluation-test.*: is damaged: .*; evaluate the run again"):
            read(tmp_path, "test")


def test_names_with_brackets_are_printed_as_they_are(capsys):
    """Units in brackets are common; rich would read them as markup, and `:ok:` as a picture."""
    names, title = ("GRU[/min]", "runs[a][degC]:ok:"), "runs[bold]/x, [/test] split"
    scores = {"imputation": {"75": {"mse": Estimate(1.0, 0.1, 10, 10)._asdict()}}}
    show(dict.fromkeys(names, scores), title)
    printed = " ".join(capsys.readouterr().out.split())
    assert all(name in printed for name in (*names, title))
