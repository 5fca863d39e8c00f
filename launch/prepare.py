"""`driftwork prepare CONFIG.yaml key=value...`: raw files to a prepared data set, on Ray."""

import sys

from launch import doctor
from launch.entry import run
from models.config_base import load
from models.errors import DriftworkError
from pipeline.manifest import Manifest
from pipeline.sequence import SPLITS

USAGE = "usage: driftwork prepare CONFIG.yaml [source=DIR] [out=DIR] [key=value ...]"


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        from pipeline.prepare import PrepareConfig, prepare  # an installation that only trains has no Ray
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "symusic"):
            raise
        raise DriftworkError(f"{error.name} is not installed; pip install -e '.[prepare]' brings it") from None
    config = load(PrepareConfig, argv[0], argv[1:])
    doctor.glance_before_preparing(config.out)
    print(f"preparing {config.source or config.dataset.name} -> {config.out}")
    print(summary(prepare(config)))
    return 0


def summary(manifest: Manifest) -> str:
    """One line: sequences and hours of each split."""
    parts = []
    for split in SPLITS:
        shards = manifest.of(split)
        hours = sum(sum(shard.frames) for shard in shards) * manifest.spec.interval / 3600
        parts.append(f"{split} {sum(shard.samples for shard in shards)} sequences ({hours:.2f} h)")
    parts.append(f"{manifest.unreadable} of {manifest.items} items unreadable")
    return f"{', '.join(parts)}; manifest {manifest.hash[:12]}"


if __name__ == "__main__":
    raise SystemExit(run("prepare", main, sys.argv[1:]))
