"""`driftwork prepare CONFIG.yaml key=value...`: turn raw files into a prepared data set, on Ray."""

import sys
import tempfile
from pathlib import Path
from types import ModuleType

from driftwork.command import command, run
from driftwork.config_base import load
from driftwork.errors import DriftworkError
from driftwork.help import settings_of_file
from launch.checks import glance
from pipeline.sequence import SPLITS
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage import Place

USAGE = """usage: driftwork prepare CONFIG.yaml [source=PATH] [out=DIR|URL] [key=value ...]
  CONFIG.yaml  Recipe of a data set, as in configs/prepare. With --help its values are shown."""


def _job() -> ModuleType:
    """Load the Ray job. An installation that only trains lacks its packages."""
    try:
        from pipeline.prepare import prepare
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise DriftworkError(f"{error.name} is not installed; run pip install -e '.[prepare]'") from None
    return prepare


@command(USAGE, settings=lambda words: settings_of_file(_job().PrepareConfig, words))
def main(argv: list[str]) -> int:
    job = _job()
    config = load(job.PrepareConfig, argv[0], argv[1:])
    _check_lasting(source=config.source, out=config.out)
    glance.before_preparing(config.out if isinstance(config.out, Path) else Path(tempfile.gettempdir()))
    print(f"preparing {config.source or config.dataset.name} -> {config.out}")
    print(summary(job.prepare(config)))
    return 0


def _check_lasting(**folders: Place | None) -> None:
    """Raise `DriftworkError` for relative paths in a Ray job: it runs in a copy of the working directory, which no
    other machine has and Ray deletes."""
    if any(part.startswith("_ray_pkg_") for part in Path.cwd().parts):
        for key, folder in folders.items():
            if isinstance(folder, Path) and not folder.is_absolute():
                raise DriftworkError(f"{key}={folder}: a Ray job needs an absolute path, which all machines share")


def summary(manifest: Manifest) -> str:
    """Return one line with the sequences and hours of each split."""
    parts = []
    for split in SPLITS:
        shards = manifest.of(split)
        hours = sum(sum(shard.frames) for shard in shards) * manifest.spec.interval / 3600
        parts.append(f"{split} {sum(shard.samples for shard in shards)} sequences ({hours:.2f} h)")
    parts.append(f"{manifest.unreadable} of {manifest.items} items unreadable")
    if manifest.joined:
        parts.append(f"{len(manifest.joined)} groups joined to others with the same content")
    return f"{', '.join(parts)}; manifest {manifest.hash[:12]}"


if __name__ == "__main__":
    raise SystemExit(run("prepare", main, sys.argv[1:]))
