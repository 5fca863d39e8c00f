"""`driftwork doctor [key=value ...] [--json]`: find causes of hangs and silent failures, each with its cure.

`train` and `prepare` start with the quick checks of `launch.checks.glance`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from driftwork.command import command, run
from driftwork.config_base import Config, parse
from driftwork.help import settings_of
from launch.checks import cluster, machine, packages, store
from launch.checks.finding import Finding
from launch.checks.glance import folders
from launch.tracker import store_uri
from launch.tracker.store_uri import StoreUri

USAGE = """usage: driftwork doctor [key=value ...] [--json]
  --json  Print the findings as JSON."""

_SERVICES = {8265: "Ray's dashboard", 10001: "Ray's client server", 5000: "MLflow"}
"""Services by their default ports."""


class DoctorConfig(Config):
    uri: StoreUri | None = Field(default_factory=store_uri.default)
    """Tracking store to check, as `sqlite:///FILE` or `http://HOST:PORT`; `tracking.uri` sets the same. By default it
    is the store of new runs: what MLFLOW_TRACKING_URI names, or `sqlite:///runs/mlflow.db`. Null checks none."""
    ranks: int = Field(1, ge=1)
    """Number of processes that a run on this machine would have."""
    out: Path = Path("runs")
    """Folder below which runs would be written."""


@command(USAGE, least=0, settings=settings_of(DoctorConfig))
def main(argv: list[str]) -> int:
    settings = [argument.removeprefix("tracking.") for argument in argv if argument != "--json"]
    config = parse(DoctorConfig, settings, where="arguments")
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
    yield store.tracking(config.uri)
    yield cluster.token()
    yield cluster.auth_mode()
    yield from cluster.open_ports(_SERVICES)
    yield cluster.upload(Path.cwd())


if __name__ == "__main__":
    raise SystemExit(run("doctor", main, sys.argv[1:]))
