"""Every command takes the text of its paths and names literally."""

from pathlib import Path

import pytest

from driftwork.config_base import load, parse
from driftwork.errors import DriftworkError
from launch import compare, doctor, evaluate, fetch, generate, prepare, report, sweep, train, verify
from launch.runs.config import RunConfig
from launch.runs.run_folder import create
from launch.sweeps import grid
from launch.tracker import ui
from pipeline.fetch.fetch import Fetched
from pipeline.fetch.sources import SOURCES
from pipeline.prepare.prepare import PrepareConfig
from tests.places import ROOT, tiny

TINY = tiny("vsdn_vae")
CONFIGS = ROOT / "configs"
NAMES = ("Mix #1", "2024-11-28", "007", "a: b", "[x]", "{y}", "key=value", "~", "~/b #2")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Provide an empty working folder, and a home folder beside it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def meant(place, name):
    """Return the path that a name stands for."""
    return place / "home" / name[2:] if name.startswith("~") else Path(name)


def said(main, *argv):
    with pytest.raises(DriftworkError) as caught:
        main(list(argv))
    return str(caught.value)


def grid_file(folder):
    (folder / "grid.yaml").write_text(f"base: {TINY}\ngrid: {{train.seed: [0, 1]}}\n")
    return str(folder / "grid.yaml")


def fetched(name, override):
    return load(SOURCES[name], CONFIGS / f"fetch/{name}.yaml", [override])


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_taken_literally(place, name):
    path, file = meant(place, name), grid_file(Path())
    given = load(PrepareConfig, CONFIGS / "prepare/lakh.yaml", [f"source={name}", f"out={name}"])
    assert (given.source, given.out) == (path, path)
    run = load(RunConfig, TINY, [f"{key}={name}" for key in ("data", "cache_dir", "hostfile", "out")])
    assert (run.data, run.cache_dir, run.hostfile, run.out) == (path,) * 4
    made = grid.read([file, f"data={name}", f"out={name}"])
    assert (made.out, {trial.config.data for trial in made.trials}) == (path, {path})
    assert [trial.folder for trial in made.trials] == [path / "seed=0", path / "seed=1"]
    scored = parse(evaluate.EvaluateConfig, [f"data={name}", f"cache_dir={name}"], "evaluate")
    assert (scored.data, scored.cache_dir) == (path, path)
    drawn = parse(generate.GenerateConfig, [f"out={name}", f"data={name}", f"cache_dir={name}"], "generate")
    assert (drawn.out, drawn.data, drawn.cache_dir) == (path, path, path)
    for cls in (compare.CompareConfig, report.ReportConfig, doctor.DoctorConfig):
        assert parse(cls, [f"out={name}"], "here").out == path
    assert fetched("lakh_clean", f"to={name}").to == fetched("timit", f"from={name}").source == path


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_literally(name):
    given = load(PrepareConfig, CONFIGS / "prepare/lakh.yaml", ["out=x", f"title={name}", f"licence={name}"])
    assert (given.title, given.licence) == (name, name)
    run = load(RunConfig, TINY, [f"tracking.experiment={name}", f"tracking.run_name={name}", f"hosts.ssh={name}"])
    assert (run.tracking.experiment, run.tracking.run_name, run.hosts.ssh) == (name, name, name)


@pytest.mark.parametrize("name", ["Mix #1", "2024-11-28", "~/b #2"])
def test_commands_use_the_given_store(place, name):
    """Each command ends with a line that names the given folder, which is empty."""
    path = meant(place, name)
    path.mkdir()
    missing = f"{path}: no manifest.json"
    assert f"source={path}: no MIDI file" in said(
        prepare.main, str(CONFIGS / "prepare/lakh.yaml"), f"source={name}", "out=o"
    )
    assert missing in said(train.main, str(TINY), f"data={name}")
    assert missing in said(sweep.main, grid_file(Path()), f"data={name}")
    assert missing in said(verify.main, name)
    run = str(create(load(RunConfig, TINY, [f"out={place / 'run #1'}", "data=gone"])))
    assert missing in said(evaluate.main, run, f"data={name}")
    assert missing in said(generate.main, run, f"data={name}", "out=new")
    assert f"{name}: no run folder" in said(evaluate.main, name)
    (path / "other").write_text("")
    assert f"out={path.absolute()}: holds other files" in said(report.main, "experiment", f"out={name}")
    assert f"{path}/x.db: no tracking store" in said(ui.main, f"tracking.uri=sqlite:///{name}/x.db")


def test_fetch_writes_to_the_given_folder(place, monkeypatch):
    asked = []
    done = Fetched(files=0, bytes=0, new=0, folders=())
    monkeypatch.setattr(fetch, "fetch", lambda config: asked.append(config.to) or done)
    assert fetch.main(["lakh_clean", "to=~/Mix #1"]) == 0
    assert asked == [place / "home/Mix #1"]


def test_base_of_a_sweep_is_taken_literally(place):
    for name in ("Mix #1.yaml", "~/b.yaml"):
        base = meant(place, name)
        base.write_bytes(TINY.read_bytes())
        made = grid.read([grid_file(Path()), f"base={name}"])
        assert [trial.config.model.name for trial in made.trials] == ["vsdn_vae"] * 2
    several = parse(grid.GridConfig, ["base=[Mix #1.yaml, ~/b.yaml]"], "here")
    assert several.base == (Path("Mix #1.yaml"), place / "home/b.yaml")


def test_config_path_may_contain_equals(place):
    folder = Path("a=b")
    folder.mkdir()
    (folder / "c.yaml").write_bytes(TINY.read_bytes())
    assert "x: no manifest.json" in said(train.main, "a=b/c.yaml", "data=x")
    assert len(grid.read([grid_file(folder), "data=x"]).trials) == 2
