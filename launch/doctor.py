"""`driftwork doctor [key=value ...] [--json]`: what would hang or fail without a word, each with its cure.

`train` and `prepare` call `glance` before they start: the checks that cost nothing, and only what they find.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from launch import doctor_machine, doctor_packages, doctor_ray, doctor_store
from launch.entry import command, run
from launch.finding import Finding
from launch.store_uri import StoreUri
from models.config_base import Config, parse

USAGE = "usage: driftwork doctor [uri=sqlite:///FILE] [ranks=N] [out=DIR] [--json]"


class DoctorConfig(Config):
    uri: StoreUri | None = "sqlite:///runs/mlflow.db"
    """The tracking store that runs would use."""
    ranks: int = Field(1, ge=1)
    """That a run on this machine would have."""
    out: Path = Path("runs")
    """Where runs would be written."""
    dashboard_port: int = Field(8265, ge=1, le=65535)
    """Of Ray."""
    tracker_port: int = Field(5000, ge=1, le=65535)
    """Of the MLflow dashboard."""


@command(USAGE, least=0)
def main(argv: list[str]) -> int:
    config = parse(DoctorConfig, [argument for argument in argv if argument != "--json"], where="arguments")
    found = []
    for finding in examine(config):
        found.append(finding)
        if "--json" not in argv:
            print(finding, flush=True)
    if "--json" in argv:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    return int(any(finding.level == "error" for finding in found))


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Every check."""
    yield doctor_packages.python()
    yield from doctor_packages.packages()
    yield doctor_packages.entry_point()
    yield doctor_machine.compiler()
    yield doctor_machine.ninja()
    yield from doctor_machine.build_locks()
    yield doctor_machine.accelerator()
    yield doctor_machine.numactl()
    yield doctor_machine.threads(config.ranks)
    yield doctor_machine.hostname()
    yield doctor_machine.shared_memory()
    yield from doctor_machine.disk(_folders(config.out))
    yield doctor_store.tracking(config.uri)
    yield doctor_ray.token()
    yield doctor_ray.auth_mode()
    services = {config.dashboard_port: "Ray's dashboard", 10001: "Ray's client server", config.tracker_port: "MLflow"}
    yield from doctor_ray.open_ports(services)
    yield doctor_ray.upload(Path.cwd())


def glance_before_training(ranks: int, uri: str | None, out: Path) -> None:
    """Say what stands in the way of a training run; nothing is said of what is well."""
    _say([
        *doctor_machine.build_locks(),
        doctor_machine.threads(ranks),
        doctor_machine.hostname(),
        doctor_machine.shared_memory(),
        *doctor_machine.disk(_folders(out)),
        doctor_store.tracking(uri),
    ])  # fmt: skip


def glance_before_preparing(out: Path) -> None:
    """The same for a preparation."""
    token = doctor_ray.token()
    _say([
        *([token] if token.level == "error" else []),  # that there is none only matters to a cluster
        doctor_machine.hostname(),
        doctor_machine.shared_memory(),
        *doctor_machine.disk(_folders(out)),
    ])  # fmt: skip


def _say(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.level != "ok":
            print(f"driftwork doctor: {finding}", file=sys.stderr, flush=True)


def _folders(out: Path) -> dict[str, Path]:
    return {"what is written": out, "temporary files": Path(tempfile.gettempdir()), "caches": Path.home()}


if __name__ == "__main__":
    raise SystemExit(run("doctor", main, sys.argv[1:]))
