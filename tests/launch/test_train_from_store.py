"""Training from object storage, against the same from a folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.manifest import read_manifest
from tests.datasets import write_rolls
from tests.object_store import BUCKET, object_store

ROOT = Path(__file__).parents[2]
TINY = str(Path(__file__).with_name("tiny_vsdn_vae.yaml"))
URL = f"s3://{BUCKET}/rolls"
SSH = """# In the place of ssh USER@HOST COMMAND: here, with the cache of a host that is called like the user.
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


@pytest.mark.slow
def test_a_run_from_a_store_is_that_from_a_folder_on_any_host_and_copies_each_shard_once(tmp_path, monkeypatch):
    rolls = tmp_path / "rolls"
    write_rolls(rolls)
    shards = {f"rolls/{path.name}" for path in rolls.glob("*.tar")}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def driftwork(*arguments):
        command = [sys.executable, "-m", "launch.cli", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    train = ["train", TINY, "tracking.uri=null"]
    folder = driftwork(*train, f"data={rolls}", "out=runs/folder", "train.max_epochs=2")
    assert folder.returncode == 0, folder.stderr

    with object_store(monkeypatch) as store:
        store.copy(rolls, "rolls")
        store.asked.clear()
        store.stop_after(2)
        from_store = [*train, f"data={URL}", "cache_dir=disk", "out=runs/store", "train.max_epochs=1"]
        cut = driftwork(*from_store)
        assert cut.returncode == 2
        assert cut.stderr.startswith(f"driftwork train: {URL}/")
        assert cut.stderr.count("\n") == 1, cut.stderr
        assert not (tmp_path / "runs/store").exists()

        here = {f"rolls/{path.name}" for path in tmp_path.glob("disk/*/*.tar")}
        store.before = lambda method, key: None
        store.start()
        store.asked.clear()
        first = driftwork(*from_store)
        assert first.returncode == 0, first.stderr
        assert sorted(store.fetched(".tar")) == sorted(shards - here)
        assert f"data: {URL}\n" in (tmp_path / "runs/store/config.yaml").read_text()
        record = json.loads((tmp_path / "runs/store/run.json").read_text())
        assert record["manifest"] == read_manifest(rolls).hash

        address = own_address()
        (tmp_path / "ssh").write_text(SSH)
        (tmp_path / "hostfile").write_text(f"one@{address} slots=1\ntwo@{address} slots=1\n")
        store.asked.clear()
        rest = driftwork("train", "resume=runs/store", "train.max_epochs=2", "cache_dir=null",
                         "hostfile=hostfile", "hosts.ssh=sh ssh")  # fmt: skip
        assert rest.returncode == 0, rest.stderr
        assert sorted(store.fetched(".tar")) == sorted([*shards, *shards])  # once a host
        for host in ("one", "two"):
            copy = tmp_path / host / "driftwork" / record["manifest"]
            assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
                path.name: path.read_bytes() for path in rolls.iterdir()
            }
    weights, same = (load_file(tmp_path / f"runs/{name}/best.safetensors") for name in ("folder", "store"))
    assert weights.keys() == same.keys()
    assert all((weights[name] == same[name]).all() for name in weights)

    scored = driftwork("evaluate", "runs/store", "split=test", "cache_dir=disk", "--json")  # the store is gone
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["model"]["density"]["25"]["nll_nats_per_frame"]["n"] == 7
