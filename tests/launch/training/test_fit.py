"""Errors for data that a model cannot be trained on."""

import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch.runs.config import RunConfig
from launch.training import setup
from tests.datasets import write_rolls, write_speech, write_table, write_walks
from tests.places import ROOT, tiny

TINY = tiny("ode2vae")


@pytest.mark.parametrize("write", [write_rolls, write_speech])
def test_ode2vae_refuses_music_and_speech(tmp_path, write):
    manifest, _ = write(tmp_path / "data")
    config = load(RunConfig, TINY, [f"data={tmp_path / 'data'}"])
    with pytest.raises(DriftworkError, match=r"does not determine music or speech; use vsdn_vae.*\(docs/models\.md\)"):
        setup.steps(config, manifest)


TABLE = ROOT / "configs" / "train" / "vsdn_sde_table.yaml"


def test_misfit_of_a_table_is_found_before_training(tmp_path):
    manifest, _ = write_table(tmp_path / "data")
    data = f"data={tmp_path / 'data'}"
    assert setup.steps(load(RunConfig, TABLE, [data, "train.max_epochs=3"]), manifest) == 3
    for override, error in (
        ("model.likelihoods={student_t: [c9]}", "there is no channel 'c9'; choose among c0, c1, c2"),
        ("model.gain_shape=true", "frames of a table have no gain"),
    ):
        with pytest.raises(DriftworkError, match=error):
            setup.steps(load(RunConfig, TABLE, [data, override]), manifest)
    assert setup.steps(load(RunConfig, TINY, [data, "ranks=1"]), manifest) > 0


def test_time_unit_comes_from_the_data(tmp_path):
    """The unit is the mean time between frames, and a longer step is refused when the data are read."""
    manifest, _ = write_table(tmp_path / "data")
    config = load(RunConfig, TABLE, [f"data={tmp_path / 'data'}"])
    spec = manifest.spec.model_copy(update={"interval": 0.123456})
    found = config.for_data(spec)
    assert (found.model.time_unit, found.model.unit, found.model.step) == (0.123, 0.123, 0.123)
    assert found.for_data(manifest.spec) == found
    assert found == load(RunConfig, TABLE, [f"data={tmp_path / 'data'}", "model.time_unit=0.123"])
    with pytest.raises(DriftworkError, match=r"model.max_step=1.0 is longer than model.time_unit=0.123"):
        load(RunConfig, TABLE, [f"data={tmp_path / 'data'}", "model.max_step=1"]).for_data(spec)


def test_chain_is_found_with_the_unit_of_the_data(tmp_path):
    """The config alone gives no unit, so that the share of X that a step keeps is not known yet."""
    manifest, _ = write_table(tmp_path / "data")
    unit = float(f"{manifest.spec.interval:.3g}")
    with pytest.raises(DriftworkError, match="is a whole time_unit in one step"):
        setup._new([str(TABLE), f"data={tmp_path / 'data'}", f"model.max_step={unit}", "model.substeps=1", "ranks=1"])


def test_ode2vae_is_trained_on_motion(tmp_path):
    manifest, _ = write_walks(tmp_path / "data")
    config = load(RunConfig, TINY, [f"data={tmp_path / 'data'}", "ranks=1"])
    assert setup.steps(config, manifest) == 4  # epochs, each of one batch


def test_step_far_below_a_frame_is_refused(tmp_path):
    """Settings for music on hourly data would need such steps; a thousand steps per frame are allowed."""
    manifest, _ = write_rolls(tmp_path / "data", interval=1800.0)
    config = load(RunConfig, tiny("vsdn_vae"), ["data=tides", "model.max_step=0.2"])
    with pytest.raises(DriftworkError, match=r"max_step=0\.2 s: 9,000 solver steps for each frame of tides, "):
        setup.check_solver_steps(config, manifest)
    setup.check_solver_steps(load(RunConfig, tiny("vsdn_vae"), ["data=tides", "model.max_step=1.8"]), manifest)


def test_hosts_need_a_hostfile():
    with pytest.raises(DriftworkError, match=r"hosts\.silence has no effect without hostfile=FILE"):
        setup.check_new(load(RunConfig, tiny("vsdn_vae"), ["data=x", "hosts.silence=10"]))
    setup.check_new(load(RunConfig, tiny("vsdn_vae"), ["data=x", "hosts.silence=10", "hostfile=hosts"]))
