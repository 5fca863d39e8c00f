"""Ranks on two hosts: equality with one host, and recovery when a host is cut off."""

import os
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from driftwork.errors import DriftworkError
from launch.job import hostfile
from launch.job.hostfile import Host
from tests import hostile
from tests.datasets import write_rolls
from tests.places import tiny
from tests.standins.network import ROOT, SSH, serving, two_places

TINY = str(tiny("vsdn_vae"))


def test_hostfile_has_deepspeed_format(tmp_path):
    (tmp_path / "hostfile").write_text("# two\nnode1 slots=4\n\nme@10.0.0.2\tslots=8  # larger\n")
    assert hostfile.read(tmp_path / "hostfile") == [Host("node1", 4), Host("me@10.0.0.2", 8)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node1\n", "line 1, 'node1', is not of the form NAME slots=N"),
        ("node1 slots=0\n", "line 1, 'node1 slots=0'"),
        ("\n-oProxyCommand=x slots=1\n", "line 2"),
        ("a slots=1\nb slots=1\na slots=1\n", "line 3 names a again"),
        ("# nobody\n", "names no host; add a line"),
    ],
)
def test_wrong_hostfile_is_reported(tmp_path, text, said):
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(DriftworkError, match=said):
        hostfile.read(tmp_path / "hostfile")
    with pytest.raises(DriftworkError, match="none: cannot be read"):
        hostfile.read(tmp_path / "none")


def weights(run):
    return load_file(run / "best.safetensors")


@pytest.mark.slow
def test_two_hosts_train_as_one_and_recover(tmp_path):
    """The reference is two ranks on one host, bit for bit; a host is cut off in the middle of an epoch."""
    write_rolls(tmp_path / "rolls")
    options = ["train.save_every=3", "train.validate_every=1000", "train.max_epochs=20"]
    options += ["tracking.uri=null", "restarts=0"]
    hostile.plant(tmp_path)
    train = [sys.executable, "-P", "-m", "launch.cli", "train"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with two_places() as (here, there), serving([here, there], tmp_path):
        (tmp_path / "hostfile").write_text(f"{here.address} slots=1\n{there.address} slots=1\n")
        wide = [f"hosts.ssh={SSH}", "hosts.silence=10", "hostfile=hostfile"]
        idle = len(there.processes())

        def on_both(*arguments):
            return here.popen([*train, *arguments], cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True)

        cut = on_both(TINY, "data=rolls", "out=runs/cut", "ranks=2", *options, *wide)
        latest = tmp_path / "runs/cut/checkpoints/latest"
        deadline = time.monotonic() + 300
        while not latest.exists() or int(latest.read_text().removeprefix("step-")) < 9:
            assert cut.poll() is None, cut.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        there.plug(False)
        said, errors = cut.communicate(timeout=200)
        assert cut.returncode == 1, errors
        assert f"{here.address}: [" in said  # the line of a rank, after its host
        assert f"driftwork: host {there.address} is lost: no sign of life for 1" in errors
        deadline = time.monotonic() + 600
        while len(there.processes()) > idle:  # nothing could notify them
            assert time.monotonic() < deadline, there.processes()
            time.sleep(0.5)

        unreachable = on_both("resume=runs/cut")
        _, errors = unreachable.communicate(timeout=200)
        assert unreachable.returncode == 2
        assert errors.splitlines()[-1].startswith(
            f"driftwork train: hostfile=hostfile: nothing was started: {there.address}: "
        )

        there.plug(True)
        rest = on_both("resume=runs/cut")
        said, errors = rest.communicate(timeout=300)
        assert rest.returncode == 0, errors
        assert f"from step {int(latest.read_text().removeprefix('step-'))}" not in said  # its training had not ended
    one = subprocess.run([*train, TINY, "data=rolls", "out=runs/one", *options], cwd=tmp_path, capture_output=True,
                         env={**os.environ, **environment})  # fmt: skip
    assert one.returncode == 0, one.stderr
    assert hostile.executed(tmp_path) == []  # in which each host starts, and trains
    cut_weights, one_weights = weights(tmp_path / "runs/cut"), weights(tmp_path / "runs/one")
    assert all((cut_weights[name] == one_weights[name]).all() for name in one_weights)
