"""`driftwork doctor [key=value ...] [--json]`: find causes of hangs and silent failures, each with its cure.

`train` and `prepare` start with the quick checks of `launch.checks.glance`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from driftwork.command import command, run
from driftwork.config_base import Config, parse
from driftwork.help import settings_of
from launch.checks import cluster, machine, packages, store
from launch.checks.finding import Finding
from launch.checks.glance import folders
from launch.tracker.store_uri import DefaultStore

USAGE = """usage: driftwork doctor [key=value ...] [--json]
  --json  Print the findings as JSON."""

_SERVICES = {8265: "Ray's dashboard", 10001: "Ray's client server", 5000: "MLflow"}
"""Services by their default ports."""


class DoctorConfig(Config):
    renamed: ClassVar = {"uri": "tracking.uri"}

    tracking: DefaultStore = Field(default_factory=DefaultStore)
    """MLflow store to check."""
    ranks: int = Field(1, ge=1)
    """Number of processes that a run on this machine would have."""
    out: Path = Path("runs")
    """Folder below which runs would be written."""


@command(USAGE, least=0, settings=settings_of(DoctorConfig))
def main(argv: list[str]) -> int:
    config = parse(DoctorConfig, [argument for argument in argv if argument != "--json"])
    found = []
    for finding in examine(config):
        found.append(finding)
        if "--json" not in argv:
            print(finding, flush=True)
    if "--json" in argv:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    return int(any(finding.level == "error" for finding in found))


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Run every check."""
    yield packages.python()
    yield from packages.packages()
    yield packages.entry_point()
    yield machine.compiler()
    yield machine.ninja()
    yield from machine.build_locks()
    yield machine.accelerator()
    yield machine.numactl()
    yield machine.threads(config.ranks)
    yield machine.hostname()
    yield machine.shared_memory()
    yield machine.home()
    yield from machine.sockets()
    yield from machine.disk(folders(config.out))
    yield store.tracking(config.tracking.uri)
    yield cluster.token()
    yield cluster.auth_mode()
    yield from cluster.open_ports(_SERVICES)
    yield cluster.upload(Path.cwd())


if __name__ == "__main__":
    raise SystemExit(run("doctor", main, sys.argv[1:]))
