"""Runs that are opened from another folder than the one they were trained in, and from any store."""

import json
from datetime import datetime

import pytest
import torch

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import cli
from launch.runs import run_folder, weights
from launch.runs.config import RunConfig
from launch.tracker import store_uri
from launch.tracker.tracking import StoreConfig
from launch.training import setup
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_rolls
from tests.launch.tracker.test_tracking import client_of
from tests.places import tiny

TINY = tiny("vsdn_vae")
STORE = "runs/mlflow.db"


def begun(out, *overrides):
    """Provide a started run of the working folder, tracked in the store there."""
    config = load(RunConfig, TINY, ["data=rolls", f"out={out}", f"tracking.uri=sqlite:///{STORE}", *overrides])
    folder = run_folder.create(config)
    experiment, name = run_folder.names(config)
    opened = run_folder.open_run(
        config.tracking, experiment=experiment, run_name=name, run_folder=folder, tags={"driftwork.model": "vsdn_vae"}
    )
    with opened as tracker:
        run_folder.remember(folder, run_id=tracker.run_id, manifest=read_manifest(config.data).hash)
    return folder


@pytest.fixture
def project(tmp_path, template, monkeypatch):
    """Provide a working folder with data and a store, beside another one with a store."""
    for name in ("project", "other"):
        (tmp_path / name / "runs").mkdir(parents=True)
        (tmp_path / name / STORE).write_bytes(template.read_bytes())
    write_rolls(tmp_path / "project/rolls")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv(store_uri.VARIABLE, raising=False)
    return tmp_path / "project"


def places(config):
    return str(config.data), config.tracking.uri


def those_of(folder):
    return f"{folder}/rolls", f"sqlite:///{folder}/{STORE}"


@pytest.mark.process  # MLflow asks `uname` as it is loaded
def test_run_opens_from_any_folder(project, monkeypatch):
    folder = begun("runs/one").absolute()
    assert places(run_folder.config_of(folder)) == ("rolls", f"sqlite:///{STORE}")
    other = project.with_name("other")
    before = (other / STORE).read_bytes()
    monkeypatch.chdir(other)
    config = run_folder.config_of(folder)
    assert places(config) == those_of(project)
    assert places(run_folder.written(folder)) == ("rolls", f"sqlite:///{STORE}")
    run_folder.check_data(folder, config)
    with run_folder.tracked(folder, config) as tracker:
        tracker.metrics({"found": 1.0}, 0)
    assert client_of(config.tracking.uri).get_run(tracker.run_id).data.metrics == {"found": 1.0}
    assert (other / STORE).read_bytes() == before
    assert sorted(path.name for path in other.rglob("*")) == ["mlflow.db", "runs"]


def test_moved_project_is_found(project, monkeypatch):
    begun("runs/one")
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(project.with_name("other"))
    assert places(run_folder.config_of(moved / "runs/one")) == those_of(moved)


def test_run_outside_project_finds_its_origin(project, monkeypatch):
    folder = begun(project.with_name("scratch") / "one")
    monkeypatch.chdir(project.with_name("other"))
    assert places(run_folder.config_of(folder)) == those_of(project)
    record = json.loads((folder / "run.json").read_text())
    del record["directory"]  # like runs from before it was stored
    (folder / "run.json").write_text(json.dumps(record))
    assert places(run_folder.config_of(folder)) == ("rolls", f"sqlite:///{STORE}")


def test_overrides_start_in_the_working_folder(project, monkeypatch):
    folder = begun("runs/one").absolute()
    other = project.with_name("other")
    monkeypatch.chdir(other)
    changed = run_folder.written(folder, ["data=mine", "train.seed=3"])
    assert places(changed) == (f"{other}/mine", f"sqlite:///{STORE}")
    assert places(run_folder.located(folder, changed)) == (f"{other}/mine", f"sqlite:///{project}/{STORE}")
    elsewhere = StoreConfig(uri="http://host:1")
    assert run_folder.config_of(folder, elsewhere).tracking.uri == "http://host:1"


COMMANDS = [
    ("evaluate", ["ID"], "best.safetensors"),
    ("generate", ["ID", "out=made"], "best.safetensors"),
    ("export", ["ID"], "best.safetensors"),
    ("compare", ["ID"], "not evaluated yet"),
    ("train", ["resume=ID", "ranks=9000"], "batch_size must be at least ranks=9000"),
    ("report", ["rolls", "out=report"], "no finished run can be reported"),
    ("ui", ["port=1"], "port=1 is taken"),
]


def taken(port):
    raise DriftworkError(f"port={port} is taken; give another")


@pytest.mark.parametrize(("name", "argv", "said"), COMMANDS, ids=[name for name, *_ in COMMANDS])
def test_every_command_takes_the_store(project, monkeypatch, name, argv, said):
    """Runs are found by `tracking.uri=` or by the environment variable, and not if both are missing. Each command then
    fails only because this run lacks something.
    """
    folder = begun("runs/one")
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    argv = [word.replace("ID", run_id) for word in argv]
    main = cli.main_of(name)
    monkeypatch.setattr("launch.tracker.ui._require_free", taken)
    (project.with_name("other") / STORE).unlink()
    monkeypatch.chdir(project.with_name("other"))
    store = f"sqlite:///{project}/{STORE}"

    def refused(*more):
        with pytest.raises(DriftworkError) as caught:
            main([*argv, *more])
        return str(caught.value)

    assert "no tracking store here" in refused()
    assert said in refused(f"tracking.uri={store}")
    monkeypatch.setenv(store_uri.VARIABLE, store)
    assert said in refused()
    assert "no tracking store here" in refused("tracking.uri=sqlite:///none.db")  # it precedes the variable
    assert "tracking.experiment" in refused("tracking.experiment=x") or name in ("ui", "doctor")


def test_environment_variable_sets_the_store(monkeypatch, capsys):
    def uri(*more):
        return load(RunConfig, TINY, ["data=rolls", *more]).tracking.uri

    monkeypatch.setenv(store_uri.VARIABLE, "sqlite:////work/mlflow.db")
    assert uri() == uri("tracking.run_name=x") == "sqlite:////work/mlflow.db"
    assert uri("tracking.uri=http://host:1") == "http://host:1"
    assert uri("tracking.uri=null") is None
    monkeypatch.setenv(store_uri.VARIABLE, "")
    assert uri() == store_uri.DEFAULT
    monkeypatch.setenv(store_uri.VARIABLE, "databricks")
    monkeypatch.setattr("sys.argv", ["driftwork", "train", str(TINY), "data=rolls"])
    assert cli.main() == 2
    allowed = "must be sqlite:///FILE, http://HOST:PORT, https://HOST or null; unset it, or give tracking.uri="
    assert capsys.readouterr().err == f"driftwork train: {store_uri.VARIABLE}=databricks: {allowed}\n"


@pytest.mark.parametrize("path", ["a%20b", "100%25", "q?x", "?mode=memory"])
def test_misread_store_path_is_refused(tmp_path, monkeypatch, path):
    from launch.checks import store
    from launch.tracker.mlflow_store import find_run_folder, prepare_store

    (tmp_path / path).mkdir()
    monkeypatch.chdir(tmp_path / path)
    before = sorted(tmp_path.rglob("*"))
    for uri in (f"sqlite:///{tmp_path}/{path}/mlflow.db", "sqlite:///mlflow.db"):
        found = store.tracking(uri)
        assert (found.level, found.cure) == ("error", "give tracking.uri=sqlite:///FILE with another path")
        for use in (lambda uri: prepare_store(uri, "x"), lambda uri: find_run_folder(uri, "x"), store.require):
            with pytest.raises(DriftworkError, match=r"^tracking store /.* MLflow misreads a path with '(%2\d|\?)'; "):
                use(uri)
    assert sorted(tmp_path.rglob("*")) == before


def test_any_other_store_path_is_used(tmp_path, template):
    from launch.checks import store
    from launch.tracker.mlflow_store import connect, prepare_store

    folder = tmp_path / "Mix #1, 100% done & 'ünï'"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(template.read_bytes())
    uri = f"sqlite:///{folder}/mlflow.db"
    before = [(path, path.stat().st_mtime_ns) for path in (folder, folder / "mlflow.db")]
    found = store.tracking(uri)
    assert found.level == "ok", found
    assert [(path, path.stat().st_mtime_ns) for path in (folder, folder / "mlflow.db")] == before
    client = connect(uri)
    run = client.create_run(prepare_store(uri, "x"))
    (tmp_path / "a.txt").write_text("a")
    client.log_artifact(run.info.run_id, str(tmp_path / "a.txt"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["a.txt"]
    assert len(list((folder / "artifacts").rglob("a.txt"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "a.txt"])


@pytest.mark.process
def test_run_of_several_hosts_resumes_from_any_folder(project, monkeypatch):
    (project / "hosts").write_text("one slots=1\ntwo slots=1\n")
    folder = begun("runs/one", "hostfile=hosts", "ranks=2").absolute()
    monkeypatch.chdir(project.parent / "other")
    with setup.folder_for([f"resume={folder}"]) as reopened:
        assert reopened == folder
    assert (run_folder.config_of(folder).ranks, str(run_folder.config_of(folder).hostfile)) == (2, f"{project}/hosts")


@pytest.mark.parametrize("left", [b"", b"\x10\0\0\0\0\0\0\0{"])
def test_damaged_weights_are_named(tmp_path, left):
    (tmp_path / weights.BEST).write_bytes(left)
    with pytest.raises(DriftworkError, match=r"best\.safetensors: is damaged: .*; copy the run folder again"):
        weights.load_best(torch.nn.Linear(2, 2), tmp_path, torch.device("cpu"))


def test_runs_of_one_second_get_different_folders(tmp_path, monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 1, 12)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "datetime", Noon)
    config = load(RunConfig, TINY, ["data=shards/lakh"])
    folders = [run_folder.create(config) for _ in range(3)]
    assert [str(folder) for folder in folders] == [
        f"runs/vsdn_vae-lakh-20260101-120000{end}" for end in ("", "-2", "-3")
    ]
    assert [run_folder.config_of(folder).out for folder in folders] == folders


def test_run_without_its_parent_folder_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/one/config.yaml").touch()
    with pytest.raises(DriftworkError, match=r"^one: no run folder here; did you mean runs/one\?$"):
        run_folder.find("one")


def test_missing_disk_of_the_runs_is_named(tmp_path, monkeypatch):
    """The folder of all runs is often a link to another disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "not mounted")
    with pytest.raises(DriftworkError, match=r"^out=runs: cannot be written: File exists"):
        run_folder.create(load(RunConfig, tiny("vsdn_vae"), ["data=rolls"]))
