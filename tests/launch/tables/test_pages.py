"""The commands of README and of the notebook about a user's own table run as printed, without the training."""

import json
import re
import shlex

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from safetensors.torch import save_file

from launch import cli
from launch.runs import run_folder
from launch.runs.weights import BEST
from pipeline.shards.manifest import read_manifest
from tests.pipeline.tables.making import ward, write
from tests.places import ROOT

NOTEBOOK = json.loads((ROOT / "docs/notebooks/own_series.ipynb").read_text(encoding="utf-8"))
SECTION = (ROOT / "README.md").read_text().partition("## Your own table\n")[2].partition("\n## ")[0]


@pytest.fixture(autouse=True)
def untrained(in_process, monkeypatch):
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
    """Provide a working folder with a table and the configs."""
    rows = [{**row, "time": str(pd.Timestamp("2024-05-01") + pd.Timedelta(row["time"], "h"))} for row in ward(8, 30)]
    write(tmp_path / "ward.csv", rows)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
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


@pytest.mark.slow
def test_shipped_notebook_runs(tmp_path, monkeypatch):
    """The notebook runs on every fifth week of its table, so that it is quick; its shipped figures are of the whole
    table.
    """
    read = pd.read_csv

    def part(*arguments, **settings):
        frame = read(*arguments, **settings)
        return frame[frame["week"].str[-2:].astype(int) % 5 == 3]

    monkeypatch.setattr(pd, "read_csv", part)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(ROOT / "docs/notebooks")
    plt.switch_backend("Agg")
    names = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    plt.close("all")
    assert names["filled"][names["channels"]].notna().all(axis=None)
    assert len(names["ahead"]) == 24
    figures = [
        output for cell in NOTEBOOK["cells"] for output in cell.get("outputs", []) if "image/png" in output["data"]
    ]
    assert len(figures) == 2
