"""`ray up`, `ray submit` and `ray down` with configs/clusters/ray.yaml as in docs/ray.md, on two hosts."""

import re
import shlex
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from driftwork.config_base import load
from pipeline.prepare.prepare import PrepareConfig, prepare
from pipeline.shards.manifest import read_manifest
from tests.pipeline.readers.midi_bytes import corpus
from tests.standins.network import ROOT, SSH, Place, two_places

CONFIG = ROOT / "configs/prepare/lakh.yaml"
OVERRIDES = ["val=0.2", "test=0.2", "files_per_shard=4", "dataset.seconds=6"]
BIN = Path(sys.executable).parent
STANDINS = {
    "ssh": f"""
        while [ "${{1#-}}" != "$1" ]; do case $1 in -tt) shift ;; *) shift 2 ;; esac; done
        host=${{1#*@}}; shift
        exec {SSH} "$host" "$@" """,
    "rsync": """
        # --rsh SSH -avz FILE USER@HOST:FILE
        exec ssh "${5%%:*}" "umask 077; cat > ${5#*:}" < "$4" """,
}


@contextmanager
def opened(place, address, home):
    """Provide a host that the stand-in for ssh reaches, with its own processes, since `ray stop` ends all visible
    Ray."""
    home.mkdir()
    (home / ".bash_profile").write_text(f"PATH={home.parent}/bin:$PATH\n")
    inside = f"mount -t tmpfs ray /tmp/ray && mount -t tmpfs shm /dev/shm && {{ {SSH} --serve {address} & wait; }}"
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
    # By default a worker waits a minute for a lost head, and then another.
    patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15", "RAY_gcs_server_request_timeout_seconds": "15"}
    process = place.popen(apart, env={"HOME": str(home), **patience})
    try:
        yield
    finally:
        process.kill()  # it ignores SIGTERM
        process.wait()


def write_standins(folder):
    folder.mkdir()
    for name, does in STANDINS.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o700)


def write_cluster(file, head, worker):
    """Write the shipped cluster file, edited for two hosts as its comments describe."""
    text = (ROOT / "configs/clusters/ray.yaml").read_text().replace("WORKER1, WORKER2", worker.address)
    for word, meant in {"HEAD": head.address, "USER": "me", "REPOSITORY/.venv": sys.prefix}.items():
        text = re.sub(rf"\b{word}\b", meant, text)
    file.write_text(text)
    return file


def wait_for(condition, worker):
    """Wait until a condition of the worker holds, for 300 s at most."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, worker.processes()
        time.sleep(1)


def runs_ray(worker):
    return "raylet" in [Path(f"/proc/{process}/comm").read_text().strip() for process in worker.processes()]


class Shell(NamedTuple):
    """The shell of a user beside the head, with stand-ins for ssh and rsync. Its output never contains the token."""

    head: Place
    place: Path

    @property
    def token(self):
        return (self.place / "here/.ray/auth_token").read_text()

    def run(self, *words):
        """Run a command and return its exit code and output."""
        clean = ["env", "-i", f"HOME={self.place / 'here'}", f"PATH={self.place / 'bin'}:{BIN}:/usr/bin:/bin"]
        command = [*SSH.split(), "127.0.0.1", f"cd {ROOT} && {shlex.join([*clean, *map(str, words)])} 2>&1"]
        process = self.head.popen(command, stdin=-3, stdout=-1, text=True)
        said, _ = process.communicate()
        assert not (self.place / "here/.ray/auth_token").exists() or self.token not in said
        return process.returncode, said

    def succeed(self, *words):
        code, said = self.run(*words)
        assert code == 0, said


@pytest.mark.ray
@pytest.mark.slow
def test_ssh_cluster_prepares_equal_bytes(tmp_path, without_ray):
    """The cluster is taken down afterwards."""
    raw = corpus(tmp_path / "raw", 20)
    alone = prepare(load(PrepareConfig, CONFIG, [*OVERRIDES, f"source={raw}", f"out={tmp_path / 'alone'}"]))
    write_standins(tmp_path / "bin")
    Path("/tmp/ray").mkdir(exist_ok=True)  # each host mounts its own folder there
    with two_places() as (head, worker), ExitStack() as hosts:
        for place, address, home in (
            (head, "127.0.0.1", "here"), (head, head.address, "head"), (worker, worker.address, "worker")
        ):  # fmt: skip
            hosts.enter_context(opened(place, address, tmp_path / home))
        time.sleep(1)
        idle = len(head.processes()), len(worker.processes())
        cluster, shell = write_cluster(tmp_path / "ray.yaml", head, worker), Shell(head, tmp_path)
        shell.succeed("sh", "-c", "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token")
        shell.succeed("ray", "up", "-y", "--no-config-cache", cluster)
        wait_for(lambda: runs_ray(worker), worker)

        settings = [CONFIG, *OVERRIDES, f"source={raw}", "address=auto"]
        shell.succeed("ray", "submit", cluster, "launch/prepare.py", *settings, f"out={tmp_path / 'out'}")
        assert read_manifest(tmp_path / "out").hash == alone.hash
        shown = [Path(f"/proc/{process}/cmdline").read_text() for process in head.processes() + worker.processes()]
        assert not any(shell.token in words for words in shown)

        words = shlex.join([*map(str, settings), f"out={tmp_path}/other"])
        wrong = f"RAY_AUTH_TOKEN={'0' * 64} python -m launch.prepare {words}"
        code, said = shell.run("ray", "exec", cluster, wrong)
        assert (code, "no Ray cluster accepts the connection" in said) == (1, True), said
        code, said = shell.run("ray", "submit", cluster, "launch/prepare.py", CONFIG, "no_such_key=1")
        assert (code, "unknown key 'no_such_key'" in said) == (1, True), said

        shell.succeed("ray", "down", "-y", cluster)
        assert len(head.processes()) == idle[0]
        wait_for(lambda: len(worker.processes()) <= idle[1], worker)
