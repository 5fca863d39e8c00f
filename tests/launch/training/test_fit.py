"""Data that a model refuses to train on, with the reason."""

import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch.runs.config import RunConfig
from launch.training import setup
from tests.datasets import write_rolls, write_speech, write_table, write_walks
from tests.places import tiny

TINY = tiny("ode2vae")


@pytest.mark.parametrize("write", [write_rolls, write_speech])
def test_ode2vae_refuses_music_and_speech(tmp_path, write):
    manifest, _ = write(tmp_path / "data")
    config = load(RunConfig, TINY, [f"data={tmp_path / 'data'}"])
    with pytest.raises(
        DriftworkError, match=r"music and speech do not follow from theirs; take vsdn_vae.*\(docs/models\.md\)"
    ):
        setup.steps(config, manifest)


def test_table_is_not_trained_on_yet(tmp_path):
    manifest, _ = write_table(tmp_path / "data")
    config = load(RunConfig, TINY, [f"data={tmp_path / 'data'}"])
    with pytest.raises(DriftworkError, match=r"is a table.*no model is trained on these yet.*\(docs/tables\.md\)"):
        setup.steps(config, manifest)


def test_ode2vae_is_trained_on_motion(tmp_path):
    manifest, _ = write_walks(tmp_path / "data")
    config = load(RunConfig, TINY, [f"data={tmp_path / 'data'}", "ranks=1"])
    assert setup.steps(config, manifest) == 4  # epochs, each of one batch
