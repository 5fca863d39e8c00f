"""Every shard of a data set against its manifest."""

from pathlib import Path
from typing import NamedTuple

from models.errors import DriftworkError
from pipeline.files import sha256
from pipeline.manifest import Manifest, Shard, read_manifest
from pipeline.shards import read_sample


class Report(NamedTuple):
    shards: int
    samples: int
    bytes: int


def verify(folder: Path) -> Report:
    """Read every byte and decode every sample.

    Raises `DriftworkError` with one line for each file that is missing, not in the manifest, or not as it was written.
    """
    manifest = read_manifest(folder)
    listed = {shard.file for shard in manifest.shards}
    faults = [(shard.file, _fault(folder / shard.file, shard, manifest)) for shard in manifest.shards]
    faults += [(path.name, "not in the manifest") for path in folder.glob("*.tar") if path.name not in listed]
    bad = [f"{folder / file}: {fault}" for file, fault in sorted(faults) if fault]
    if bad:
        raise DriftworkError("\n".join(bad))
    return Report(
        len(manifest.shards),
        sum(shard.samples for shard in manifest.shards),
        sum(shard.bytes for shard in manifest.shards),
    )


def _fault(path: Path, shard: Shard, manifest: Manifest) -> str:
    """What is wrong with one shard, or nothing."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"{size} bytes, {shard.bytes} in the manifest"
    if sha256(path) != shard.sha256:
        return "its bytes are not those that were written (sha256 differs)"
    try:
        with path.open("rb") as handle:
            for index in range(shard.samples):
                read_sample(handle, shard, index, manifest.spec)
    except DriftworkError as error:
        return str(error)
    return ""
