"""Results of runs that were scored with plugins."""

from driftwork.config_base import flatten, load
from launch.runs.config import RunConfig
from launch.scoring import comparison
from launch.scoring.estimates import Scores
from launch.scoring.results import read_scores, write_results
from tests.places import tiny


def test_metric_without_its_plugin_is_left_out(tmp_path):
    scores = Scores(("a", "b"), ("a", "b"), (1.0, 2.0), (1.0, 1.0))
    write_results(tmp_path, "test", {"model": {"prediction": {"25": {"rmse": scores, "of_a_plugin": scores}}}})
    assert "of_a_plugin" in (tmp_path / "evaluation-test-sequences.json").read_text()
    assert read_scores(tmp_path, "test") == {"model": {"prediction": {"25": {"rmse": scores}}}}


def test_plugins_do_not_distinguish_runs():
    config = flatten(load(RunConfig, tiny("vsdn_vae")))
    assert comparison.settings(config | {"plugins": ["my_figure"]}) == comparison.settings(config)
