"""Training from object storage against training from a folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from driftwork.errors import DriftworkError
from launch import train
from launch.runs import run_folder
from launch.training import start
from pipeline.shards import storage
from pipeline.shards.manifest import read_manifest
from tests.datasets import write_rolls
from tests.places import ROOT, tiny
from tests.standins.object_store import BUCKET, object_store

URL = f"s3://{BUCKET}/rolls"
SETTINGS = [str(tiny("vsdn_vae")), "tracking.uri=null", "train.max_epochs=2"]
FROM_STORE = [*SETTINGS, f"data={URL}", "cache_dir=disk", "out=runs/store"]
SSH = """# Run the command of ssh USER@HOST COMMAND on this machine, with a cache for the host USER.
host=${1%@*}
shift
XDG_CACHE_HOME=$PWD/$host exec sh -c "$*"
"""


def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network address but the loopback's")
        return probe.getsockname()[0]


def trained(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch.cli", "train", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def shard_names():
    return {f"rolls/{path.name}" for path in Path("rolls").glob("*.tar")}


def check_lost_store(store):
    """Check that a launch is refused if the store is lost, and that the next one copies only the missing shards."""
    store.asked.clear()
    store.stop_after(2)
    with pytest.raises(
        DriftworkError, match=rf"^{URL}/[a-z0-9-]+.tar: .*; given up after 4 attempts; try again later$"
    ):
        train.main(FROM_STORE)
    assert not Path("runs/store").exists()
    here = {f"rolls/{path.name}" for path in Path("disk").glob("*/*.tar")}
    store.before = lambda method, key: None
    store.start()
    store.asked.clear()
    assert train.main(FROM_STORE) == 0
    assert sorted(store.fetched(".tar")) == sorted(shard_names() - here)
    assert f"data: {URL}\n" in Path("runs/store/config.yaml").read_text()


def check_copies_of_hosts(store, manifest):
    """Check that a training on two hosts copies each shard once to each of them."""
    address = own_address()
    Path("ssh").write_text(SSH)
    Path("hostfile").write_text(f"one@{address} slots=1\ntwo@{address} slots=1\n")
    store.asked.clear()
    trained("resume=runs/store", "cache_dir=null", "hostfile=hostfile", "hosts.ssh=sh ssh")
    assert sorted(store.fetched(".tar")) == sorted([*shard_names(), *shard_names()])
    for host in ("one", "two"):
        copied = Path(host, "driftwork", manifest)
        assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
            path.name: path.read_bytes() for path in Path("rolls").iterdir()
        }


def check_replaced_data(store, config):
    """Check that a copy suffices without the store, and that other data in the store are refused."""
    run_folder.check_data(Path("runs/store"), config.model_copy(update={"cache_dir": Path("disk")}))
    store.start()
    try:
        elsewhere = config.model_copy(update={"cache_dir": Path("elsewhere")})
        with pytest.raises(DriftworkError, match=f"data={URL} is not the data set that runs/store was trained on"):
            run_folder.check_data(Path("runs/store"), elsewhere)
    finally:
        store.stop()


@pytest.mark.slow
def test_run_from_store_equals_run_from_folder(tmp_path, monkeypatch):
    """Each host copies a shard once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "_WAIT_S", 0.01)
    monkeypatch.setattr(start, "supervised", lambda *_: 0)  # in this process no rank is started
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_rolls(Path("rolls"))
    with object_store(monkeypatch) as store:
        store.copy(Path("rolls"), "rolls")
        check_lost_store(store)
        manifest = run_folder.record_of(Path("runs/store"))["manifest"]
        assert manifest == read_manifest(Path("rolls")).hash
        check_copies_of_hosts(store, manifest)
        write_rolls(Path("other"), seed=1)
        store.copy(Path("other"), "rolls")

    config = run_folder.config_of(Path("runs/store"))
    assert config.data == URL
    trained(*SETTINGS, "data=rolls", "out=runs/folder")
    weights, same = (load_file(f"runs/{name}/best.safetensors") for name in ("folder", "store"))
    assert weights.keys() == same.keys()
    assert all((weights[name] == same[name]).all() for name in weights)
    check_replaced_data(store, config)
