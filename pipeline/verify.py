"""Every shard of a data set against its manifest."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from models.errors import DriftworkError
from pipeline.files import sha256
from pipeline.manifest import Manifest, Shard, read_manifest
from pipeline.shards import read_sample
from pipeline.storage import MissingError, Place, Store


class Report(NamedTuple):
    shards: int
    samples: int
    bytes: int


def verify(where: Place) -> Report:
    """Read every byte and decode every sample; of a URL one shard after another, by way of a temporary file.

    Raises `DriftworkError` with one line for each file that is missing, not in the manifest, or not as it was written.
    """
    manifest = read_manifest(where)
    if isinstance(where, Path):
        there = {path.name for path in where.glob("*.tar")}
        faults = [(shard.file, _fault(where / shard.file, shard, manifest)) for shard in manifest.shards]
    else:
        there = {name for name in Store(where).names() if name.endswith(".tar")}
        faults = [(shard.file, _fault_there(Store(where), shard, manifest)) for shard in manifest.shards]
    faults += [(file, "not in the manifest") for file in there - {shard.file for shard in manifest.shards}]
    bad = [f"{where}/{file}: {fault}" for file, fault in sorted(faults) if fault]
    if bad:
        raise DriftworkError("\n".join(bad))
    return Report(
        len(manifest.shards),
        sum(shard.samples for shard in manifest.shards),
        sum(shard.bytes for shard in manifest.shards),
    )


def _fault_there(store: Store, shard: Shard, manifest: Manifest) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, shard.file)
        with suppress(MissingError):
            store.fetch(shard.file, path)
        return _fault(path, shard, manifest)


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
