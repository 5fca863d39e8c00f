"""Two simulated hosts on one machine: network namespaces joined by a virtual cable. They share files, processes and
cores."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import ROOT

SSH = f"{sys.executable} {Path(__file__).with_name('ssh.py')}"


class Place(NamedTuple):
    """A network namespace that serves as a host."""

    name: str
    address: str

    def popen(self, command, **options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], env=environment, **options)

    def plug(self, up):
        """Connect or disconnect the cable."""
        _ip("-n", self.name, "link", "set", "cable", "up" if up else "down")

    def processes(self):
        return _ip("netns", "pids", self.name).split()

    def end_processes(self):
        """Kill all processes of the place."""
        for process in self.processes():
            subprocess.run(["kill", "-9", process], stderr=subprocess.DEVNULL)


@contextmanager
def two_places():
    """Provide two connected places. Skips the test if namespaces cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command `ip` (apt install iproute2)")
    mark = f"dw{os.getpid()}"
    places = [Place(f"{mark}{end}", f"10.213.{os.getpid() % 200 + 1}.{end}") for end in (1, 2)]
    made = []
    try:
        for place in places:
            try:
                _ip("netns", "add", place.name)
                made.append(place)
                _ip("-n", place.name, "link", "set", "lo", "up")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        first, second = places
        cable = ["type", "veth", "peer", "name", "cable", "netns", second.name]
        _ip("-n", first.name, "link", "add", "cable", *cable)
        for place in places:
            _ip("-n", place.name, "addr", "add", f"{place.address}/24", "dev", "cable")
            place.plug(True)
        yield places
    finally:
        for place in made:
            place.end_processes()
            _ip("netns", "del", place.name)


@contextmanager
def serving(places, home=None):
    """Run a server for `SSH` in each of these places, whose commands start in the folder `home`."""
    servers = [place.popen([*SSH.split(), "--serve", place.address], cwd=home) for place in places]
    try:
        time.sleep(1)
        yield
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
