"""Quick checks before a command starts its work. Only warnings and errors are printed."""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from launch.checks import cluster, machine, store
from launch.checks.finding import Finding


def before_training(ranks: int, uri: str | None, out: Path) -> None:
    """Print warnings about obstacles to a training run."""
    _print([
        *machine.build_locks(),
        machine.threads(ranks),
        machine.hostname(),
        machine.shared_memory(),
        *machine.disk(folders(out)),
        store.tracking(uri),
    ])  # fmt: skip


def before_preparing(out: Path) -> None:
    """Print warnings about obstacles to preparing data."""
    token = cluster.token()
    _print([
        *([token] if token.level == "error" else []),  # a missing token only matters to a cluster
        machine.hostname(),
        machine.shared_memory(),
        *machine.disk(folders(out)),
    ])  # fmt: skip


def _print(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.level != "ok":
            print(f"driftwork doctor: {finding}", file=sys.stderr, flush=True)


def folders(out: Path) -> dict[str, Path]:
    """Return the folders whose disks a run that writes to `out` may fill."""
    return {"what is written": out, "temporary files": Path(tempfile.gettempdir()), "caches": Path.home()}
