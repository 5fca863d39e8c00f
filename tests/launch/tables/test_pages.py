"""What README says about a table of one's own runs as it stands there; only training is left out."""

import re
import shlex

import pandas as pd
import pytest
from safetensors.torch import save_file

from launch import cli
from launch.runs import run_folder
from launch.runs.weights import BEST
from pipeline.shards.manifest import read_manifest
from tests.launch.tables.own import in_process  # noqa: F401
from tests.pipeline.tables.making import ward, write
from tests.places import ROOT

SECTION = (ROOT / "README.md").read_text().partition("## Your own table\n")[2].partition("\n## ")[0]


@pytest.fixture(autouse=True)
def untrained(in_process, monkeypatch):  # noqa: F811
    """Let a run have its initial weights, without tracking."""

    def begin(folder):
        config = run_folder.config_of(folder)
        save_file(run_folder.model_for(config, read_manifest(config.data)).state_dict(), folder / BEST)
        return 0

    monkeypatch.setattr("launch.train.start_new", begin)
    monkeypatch.setattr("launch.api.start_new", begin)
    monkeypatch.setattr("launch.training.setup.store.require", lambda uri: None)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a table and the configs."""
    rows = [{**row, "time": str(pd.Timestamp("2024-05-01") + pd.Timedelta(row["time"], "h"))} for row in ward(8, 30)]
    write(tmp_path / "ward.csv", rows)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_readme_fill_the_holes(place):
    lines = re.search(r"```bash\n(.*?)```", SECTION, re.DOTALL)[1].splitlines()
    assert len(lines) == 4
    for line in lines:
        program, name, *words = shlex.split(line)
        assert program == "driftwork"
        assert cli.main_of(name)(words) == 0
    given, filled = pd.read_csv("ward.csv"), pd.read_parquet("filled.parquet")
    assert filled[given.columns].notna().all(axis=None)
    assert filled["heat_quantile_0.95"].notna().equals(given["heat"].isna())


def test_python_of_readme_fills_and_continues(place):
    names = {}
    exec(re.search(r"```python\n(.*?)```", SECTION, re.DOTALL)[1], names)
    assert names["filled"][["heat", "pulse"]].notna().all(axis=None)
    assert len(names["ahead"]) == 24 * names["frame"].dropna(subset=["heat", "pulse"], how="all")["series"].nunique()
