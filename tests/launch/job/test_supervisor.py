"""Jobs that die, and hosts that are away for a while, without real waiting."""

import shlex
import sys

import pytest

from launch.job import hosts
from launch.job.hostfile import HostsConfig
from launch.job.hosts import AwayError
from launch.training import supervisor


@pytest.fixture
def pauses(monkeypatch):
    """Provide the list of pauses, in seconds, which are skipped."""
    slept = []
    monkeypatch.setattr(supervisor.time, "sleep", slept.append)
    return slept


def job(*outcomes):
    """Return a `start` that returns, or raises, these outcomes one after the other."""
    left = list(outcomes)

    def start():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    start.left = left
    return start


def away(times):
    return [AwayError("hostfile=h: nothing was started: node2: no route")] * times


def test_rebooting_host_costs_one_restart(tmp_path, pauses, capsys):
    """The waiting times between tries increase."""
    start = job(1, *away(3), 0)
    assert supervisor.supervised(tmp_path, start, restarts=1) == 0
    assert pauses == [10, 20, 40]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "driftwork train: the job died with exit code 1; restart 1 of 1 from the last checkpoint"
    assert said[2] == "driftwork train: hostfile=h: nothing was started: node2: no route; the next try is in 20 s"


def test_lost_host_ends_the_job_eventually(tmp_path, pauses):
    """The job ends after half an hour."""
    start = job(1, *away(100))
    with pytest.raises(AwayError, match="node2: no route"):
        supervisor.supervised(tmp_path, start, restarts=2)
    assert 1800 <= sum(pauses) < 2000
    assert max(pauses) == 300
    assert len(start.left) == 100 - len(pauses) - 1


def test_missing_host_is_reported_at_once(tmp_path, pauses):
    with pytest.raises(AwayError):
        supervisor.supervised(tmp_path, job(*away(1), 0), restarts=2)
    assert pauses == []


def test_dead_job_restarts_as_often_as_allowed(tmp_path, pauses, capsys):
    """Restarts follow without waiting."""
    start = job(256 - 9, 70, 1, 0)
    assert supervisor.supervised(tmp_path, start, restarts=2) == 1
    assert (pauses, start.left) == ([], [0])
    said = capsys.readouterr().err
    for cause in (
        "signal SIGKILL; restart 1 of 2",
        "a watchdog's error; restart 2 of 2",
        "exit code 1; no restart left",
    ):
        assert f"the job died with {cause}" in said


@pytest.mark.process
def test_host_without_ssh_is_away(tmp_path):
    (tmp_path / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    refuse = shlex.join([sys.executable, "-c", "raise SystemExit(print('no route to host') or 255)"])
    with pytest.raises(AwayError, match=r"hostfile: nothing was started: node1: .*; node2: "):
        hosts.start("launch.training.rank", [], tmp_path / "hostfile", HostsConfig(ssh=refuse), shared=[])
