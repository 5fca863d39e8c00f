"""Preparation on a Ray cluster of two nodes, one of which is cut off, gives the same bytes as on one machine."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from driftwork.config_base import load
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.shards.manifest import read_manifest
from pipeline.shards.verify import verify
from tests.pipeline.readers.midi_bytes import corpus
from tests.places import ROOT
from tests.standins.network import two_places

CONFIG = ROOT / "configs" / "prepare" / "lakh.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=1", "dataset.seconds=6"]
SLOWLY = """
import sys
from driftwork.config_base import load
from pipeline.readers import registry
from pipeline.prepare.prepare import PrepareConfig, prepare
from tests.pipeline.readers.readers import Slow
registry.DATASETS.makers["lakh"] = Slow
prepare(load(PrepareConfig, sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_lost_node_changes_no_byte(tmp_path, without_ray):
    raw = corpus(tmp_path / "raw", 12)
    alone = prepare(load(PrepareConfig, CONFIG, [*OVERRIDES, f"source={raw}", f"out={tmp_path / 'alone'}"]))

    # Ray keeps sockets below its folder, and their paths are limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="dw"))
    (home / "token").touch(mode=0o600)
    (home / "token").write_text("0123456789abcdef" * 4)
    environment = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token"), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }  # fmt: skip
    command = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus=1"]
    command += ["--object-store-memory=80000000", "--node-ip-address"]
    log = tmp_path / "log"
    try:
        with two_places() as (head, worker), log.open("wb") as said:
            first = [head.address, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={home}"]
            head.popen([*command, *first], env=environment, stdout=said, stderr=said)
            wait_until(lambda: log.read_text().count("Ray runtime started") == 1, log)
            joins = [worker.address, f"--address={head.address}:6379"]
            worker.popen([*command, *joins], env=environment, stdout=said, stderr=said)
            wait_until(lambda: log.read_text().count("Ray runtime started") == 2, log)
            out = tmp_path / "out"
            settings = [*OVERRIDES, f"source={raw}", f"out={out}", "workers=2", f"address={head.address}:6379"]
            driver = head.popen([sys.executable, "-c", SLOWLY, CONFIG, *settings], env=environment, stderr=said)
            seen = raw.with_name("seen")
            wait_until(lambda: len(list(seen.glob("*"))) == 2 or driver.poll() is not None, log)  # both nodes read
            assert driver.poll() is None, log.read_text()
            worker.plug(False)
            assert driver.wait(300) == 0, log.read_text()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert read_manifest(out).hash == alone.hash
    assert verify(out).shards == 12


def wait_until(reached, log):
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
