"""`ray job submit` as in docs/ray.md, from a clean shell to a real cluster of one machine that requires a token."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from driftwork.config_base import load
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.shards.manifest import read_manifest
from tests.pipeline.readers.midi_bytes import corpus
from tests.standins.network import ROOT

CONFIG = "configs/prepare/lakh.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=4", "dataset.seconds=6"]


def free_ports(count):
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_job_prepares_equal_bytes(tmp_path, without_ray):
    """A failed job reports its failure."""
    raw = corpus(tmp_path / "raw", 20)
    alone = prepare(load(PrepareConfig, ROOT / CONFIG, [*OVERRIDES, f"source={raw}", f"out={tmp_path / 'alone'}"]))

    home = Path(tempfile.mkdtemp(prefix="dw"))  # short: Ray keeps sockets in it
    bin_folder = Path(sys.executable).parent
    clean = {"HOME": str(home), "PATH": f"{bin_folder}:/usr/bin:/bin", "RAY_AUTH_MODE": "token",
             "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip

    def ray(*arguments, **variables):
        command = [bin_folder / "ray", *arguments]
        return subprocess.run(command, cwd=ROOT, env={**clean, **variables}, capture_output=True, text=True)

    assert ray("get-auth-token", "--generate").returncode == 0
    (home / ".ray/auth_token").chmod(0o600)
    port, dashboard, agent, metrics, client = free_ports(5)
    options = [
        "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
        f"--ray-client-server-port={client}", f"--temp-dir={home}", "--object-store-memory=80000000",
    ]  # fmt: skip
    head = subprocess.Popen([bin_folder / "ray", "start", *options], env=clean, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        at = ["--address", f"http://127.0.0.1:{dashboard}"]
        while (listed := ray("job", "list", *at)).returncode:
            assert head.poll() is None
            assert time.monotonic() < deadline, listed.stderr
            time.sleep(1)
        assert ray("job", "list", *at, RAY_AUTH_TOKEN="0" * 64).returncode != 0

        submit = ["job", "submit", *at, "--working-dir", ".", "--", sys.executable, "-m", "launch.prepare", CONFIG]
        made = ray(*submit, *OVERRIDES, f"source={raw}", f"out={tmp_path / 'out'}", "address=auto")
        assert made.returncode == 0, made.stdout + made.stderr
        assert read_manifest(tmp_path / "out").hash == alone.hash
        assert f"manifest {alone.hash[:12]}" in made.stdout

        failed = ray(*submit, *OVERRIDES, f"source={raw}", "out=lost", "address=auto")
        assert failed.returncode == 1, failed.stdout + failed.stderr
        assert "driftwork prepare: out=lost: a Ray job needs an absolute path" in failed.stdout + failed.stderr
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(home, ignore_errors=True)
