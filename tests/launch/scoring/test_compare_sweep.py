"""`driftwork compare` of a sweep's folder."""

import pytest

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import compare
from launch.runs import run_folder
from launch.runs.config import RunConfig
from tests.launch.scoring.test_compare import lines, ran
from tests.places import ROOT


def test_sweep_gives_its_evaluated_runs(tmp_path, capsys):
    for name, level in (("latent=2", 30.0), ("latent=3", 28.0)):
        ran(tmp_path / "sweep" / name, level, f"model.{name}")
    rest = load(
        RunConfig, ROOT / "tests/launch/tiny_vsdn_vae.yaml", [f"out={tmp_path / 'sweep/latent=5'}", "data=rolls"]
    )
    run_folder.create(rest)
    assert compare.main([str(tmp_path / "sweep"), f"out={tmp_path / 'table.md'}"]) == 0
    said = capsys.readouterr()
    assert said.err == f"left out: {tmp_path / 'sweep/latent=5'} is not evaluated on the test split\n"
    figures, _ = lines(tmp_path / "table.md")
    assert list(figures) == ["vsdn_vae (latent 2)", "vsdn_vae (latent 3)", "persistence", "nearest"]
    with pytest.raises(DriftworkError, match="none of its runs is evaluated on the val split; driftwork evaluate"):
        compare.main([str(tmp_path / "sweep"), "split=val"])


def test_unread_store_is_refused(tmp_path):
    run = ran(tmp_path / "a", 30.0)
    with pytest.raises(DriftworkError, match=r"tracking\.uri=sqlite:///x\.db has no effect: every RUN is a folder"):
        compare.main([run, "tracking.uri=sqlite:///x.db"])
