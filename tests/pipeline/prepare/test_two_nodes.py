"""Preparation on a Ray cluster of two nodes gives the same bytes as on one machine, even if one of them is lost.

All tests share one cluster, which starts slowly. The test that loses a node comes last.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from driftwork.config_base import load
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.shards.manifest import read_manifest
from pipeline.shards.verify import verify
from tests.pipeline.prepare.preparing import contents
from tests.pipeline.readers.midi_bytes import corpus
from tests.pipeline.tables.making import long, ward, write
from tests.places import ROOT
from tests.standins.network import Place, two_places

CONFIG = ROOT / "configs" / "prepare" / "lakh.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=1", "dataset.seconds=6"]
TABLE = ROOT / "configs" / "prepare" / "table.yaml"
OF_TABLE = ["val=0.2", "test=0.2", "files_per_shard=1", "dataset.time_unit=h"]
STARTS = 3
"""Attempts to start a node: on a busy machine Ray gives up after 30 s."""
SLOWLY = """
import sys
from driftwork.config_base import load
from pipeline.readers import registry
from pipeline.prepare import prepare
from tests.pipeline.prepare.preparing import build_slowly
from tests.pipeline.readers.readers import Slow
registry.DATASETS.makers["lakh"] = Slow
if "table" in sys.argv[1]:
    prepare.build_shard = build_slowly
prepare.prepare(load(prepare.PrepareConfig, sys.argv[1], sys.argv[2:]))
"""


class Cluster(NamedTuple):
    head: Place
    worker: Place
    environment: dict[str, str]
    log: Path

    def prepare(self, *arguments):
        """Start `prepare` on both nodes; each task records its network in the folder `seen` beside the source, and
        takes two seconds."""
        settings = [*arguments, "workers=2", f"address={self.head.address}:6379"]
        with self.log.open("ab") as said:
            return self.head.popen([sys.executable, "-c", SLOWLY, *settings], env=self.environment, stderr=said)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # Ray keeps sockets below its folder, and their paths are limited to 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="dw"))
    (home / "token").touch(mode=0o600)
    (home / "token").write_text("0123456789abcdef" * 4)
    environment = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token"), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }  # fmt: skip
    try:
        with two_places() as (head, worker):
            made = Cluster(head, worker, environment, tmp_path_factory.mktemp("ray") / "log")
            first = ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={home}"]
            start(made, head, first)
            start(made, worker, [f"--address={head.address}:6379"])
            yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start(cluster, place, options):
    """Start a node of Ray. A failed attempt is repeated, after its processes are ended."""
    command = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus=1"]
    command += ["--object-store-memory=80000000", f"--node-ip-address={place.address}", *options]
    for _ in range(STARTS):
        log = cluster.log.with_name(f"{place.name}.log")
        with log.open("wb") as said:
            node = place.popen(command, env=cluster.environment, stdout=said, stderr=said)
        wait_until(lambda log=log, node=node: "Ray runtime started" in log.read_text() or node.poll() is not None, log)
        if node.poll() is None:
            return
        place.end_processes()
    pytest.fail(f"Ray did not start in {STARTS} attempts:\n{log.read_text()}")


@pytest.mark.ray
@pytest.mark.slow
def test_table_has_the_same_bytes_from_two_nodes(tmp_path, cluster, without_ray):
    source = write(tmp_path / "raw" / "ward.csv", long(ward(5, patients=8)))
    prepare(load(PrepareConfig, TABLE, [*OF_TABLE, f"source={source}", f"out={tmp_path / 'alone'}"]))
    driver = cluster.prepare(TABLE, *OF_TABLE, f"source={source}", f"out={tmp_path / 'out'}")
    assert driver.wait(300) == 0, cluster.log.read_text()
    assert len(list((tmp_path / "seen").iterdir())) == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.ray
@pytest.mark.slow
def test_lost_node_changes_no_byte(tmp_path, cluster, without_ray):
    raw = corpus(tmp_path / "raw", 12)
    alone = prepare(load(PrepareConfig, CONFIG, [*OVERRIDES, f"source={raw}", f"out={tmp_path / 'alone'}"]))
    out, seen = tmp_path / "out", raw.with_name("seen")
    driver = cluster.prepare(CONFIG, *OVERRIDES, f"source={raw}", f"out={out}")
    wait_until(lambda: len(list(seen.glob("*"))) == 2 or driver.poll() is not None, cluster.log)  # both nodes read
    assert driver.poll() is None, cluster.log.read_text()
    cluster.worker.plug(False)
    assert driver.wait(300) == 0, cluster.log.read_text()
    assert read_manifest(out).hash == alone.hash
    assert verify(out).shards == 12


def wait_until(reached, log):
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
