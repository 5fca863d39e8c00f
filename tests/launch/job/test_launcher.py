"""Commands inside the job of another launcher, whose variables describe ranks that are not ours."""

import shlex
import sys

import pytest

from driftwork.config_base import load
from launch import evaluate, train
from launch.job import hosts, launcher
from launch.job.hostfile import HostsConfig
from launch.job.hosts import AwayError
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.training import start
from tests.datasets import write_rolls
from tests.places import tiny


@pytest.fixture(autouse=True)
def outer(monkeypatch):
    """Set the variable that marks a rank; torchrun and others also set those of the group."""
    monkeypatch.setenv("LOCAL_RANK", "3")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Provide a run in a working folder with data."""
    write_rolls(tmp_path / "rolls")
    monkeypatch.chdir(tmp_path)
    return run_folder.create(load(RunConfig, tiny("vsdn_vae"), ["data=rolls", "out=run", "tracking.uri=null"]))


def test_resume_starts_ranks_in_an_outer_job(run, monkeypatch):
    monkeypatch.setattr(start, "supervised", lambda folder, ranks, restarts: 7)
    assert train.main(["resume=run"]) == 7


def test_evaluate_works_in_an_outer_job(run, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate", lambda folder, request: "test")
    monkeypatch.setattr(evaluate, "read_results", lambda folder, name: {"model": {}})
    assert evaluate.main(["run", "--json"]) == 0
    assert capsys.readouterr().out == '{"model": {}}\n'


def test_ranks_have_no_outer_variables():
    outer = {
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "4",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "NCCL_DEBUG": "INFO",
    }
    found = launcher.environment(1, gpus=False, given=outer)
    assert found.keys() & outer.keys() == {"NCCL_DEBUG"}


@pytest.mark.process
def test_connections_have_no_outer_variables(tmp_path):
    """A process with such a variable would get the SIGTERM that ranks get to save."""
    (tmp_path / "hostfile").write_text("node1 slots=1\n")
    code = "import os; raise SystemExit(f\"LOCAL_RANK={os.environ.get('LOCAL_RANK')}\")"
    ssh = shlex.join([sys.executable, "-c", code])
    with pytest.raises(AwayError, match=r"node1: LOCAL_RANK=None$"):
        hosts.start("launch.training.rank", [], tmp_path / "hostfile", HostsConfig(ssh=ssh), shared=[])
