"""Run folders of launches that are refused, and of launches that have begun."""

import shlex
import sys

import pytest
from filelock import FileLock

from driftwork.config_base import load
from driftwork.errors import DriftworkError
from launch import train
from launch.runs import run_folder
from launch.runs.config import CONFIG_FILE, RunConfig
from launch.training import start
from tests.datasets import write_rolls
from tests.places import tiny


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Provide a working folder with data."""
    write_rolls(tmp_path / "rolls")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(place, hosts, *overrides):
    (place / "hostfile").write_text(hosts)
    no_route = shlex.join([sys.executable, "-c", "raise SystemExit(print('no route to host') or 255)"])
    arguments = [str(tiny("vsdn_vae")), "data=rolls", "out=runs/new", "hostfile=hostfile", "tracking.uri=null"]
    return train.main([*arguments, f"hosts.ssh={no_route}", *overrides])


@pytest.mark.process
def test_unreachable_host_leaves_no_folder(place):
    with pytest.raises(DriftworkError, match="nothing was started"):
        refuse(place, "node1 slots=1\nnode2 slots=1\n")
    assert not (place / "runs/new").exists()


@pytest.mark.parametrize("package", ["deepspeed", "mlflow"])
def test_missing_package_leaves_no_folder(place, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DriftworkError, match=f"{package} is not installed, and training needs it; run pip install"):
        train.main([str(tiny("vsdn_vae")), "data=rolls", "out=runs/new"])
    assert not (place / "runs").exists()


@pytest.mark.parametrize(("record", "stays"), [({}, False), ({"run_id": None}, True)])
def test_refused_ranks_leave_no_folder_unless_begun(place, monkeypatch, record, stays):
    """Ranks refuse, for example, a parent run that the tracker lacks. Other files in the folder are not touched."""
    config = load(RunConfig, tiny("vsdn_vae"), ["data=rolls", "out=runs/new", "tracking.uri=null"])

    def supervised(folder, ranks, restarts):
        run_folder.remember(folder, **record)
        return 2

    monkeypatch.setattr(start, "supervised", supervised)
    for others in (False, True):
        folder = run_folder.create(config)
        if others:
            (folder / "notes.txt").write_text("mine")
        assert start.start_new(folder) == 2
        assert (folder / CONFIG_FILE).exists() == stays
        assert folder.exists() == (stays or others)
        if stays:
            run_folder.withdraw_unbegun(folder)
            assert (folder / CONFIG_FILE).exists()
            return
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("key", "value"), [("folds", "{count: 3, fold: 1}"), ("train.seed", "5"), ("train.batch_size", "4")]
)
def test_resume_keeps_settings_that_define_a_run(place, key, value):
    """Another seed would name one set of weights twice, and another fold would score trained sequences."""
    folder = run_folder.create(load(RunConfig, tiny("vsdn_vae"), ["data=rolls", "out=run", "ranks=1"]))
    before = (folder / CONFIG_FILE).read_bytes()
    with pytest.raises(DriftworkError, match=f"^resume=run: {key} cannot change in a run; start a new one$"):
        train.main(["resume=run", f"{key}={value}", "train.max_epochs=9"])
    assert (folder / CONFIG_FILE).read_bytes() == before


def test_busy_run_is_refused_and_untouched(place):
    """The other job's notes of its ranks, by which a lost rank is named, stay too."""
    folder = run_folder.create(load(RunConfig, tiny("vsdn_vae"), ["data=rolls", "out=run", "tracking.uri=null"]))
    (folder / run_folder.RANKS).mkdir()
    (folder / run_folder.RANKS / "0.json").write_text("{}")
    with FileLock(folder / "train.lock"):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(DriftworkError, match=r"^run: another training is at work there; wait until it has ended$"):
            train.main(["resume=run", "train.max_epochs=7", "optim.lr=0.5"])
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_run_is_reserved_until_its_ranks_have_ended(place, monkeypatch):
    """The lock of the ranks stays free for them."""

    def supervised(folder, ranks, restarts):
        with pytest.raises(DriftworkError, match="another training is at work there"), run_folder.reserved(folder):
            pass
        with run_folder.alone(folder):
            return 0

    monkeypatch.setattr(start, "supervised", supervised)
    assert train.main([str(tiny("vsdn_vae")), "data=rolls", "out=run", "tracking.uri=null"]) == 0
    assert train.main(["resume=run"]) == 0
    with run_folder.reserved(place / "run"):
        pass
