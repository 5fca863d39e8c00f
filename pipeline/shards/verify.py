"""Check every shard of a data set against its manifest."""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from driftwork.errors import DriftworkError
from driftwork.files import sha256
from pipeline.sequence import DataSpec
from pipeline.shards.manifest import Manifest, Shard, read_manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.storage import MissingError, Place, Store, shards_among

_ALONE = 10_000
"""Number of samples up to which one process checks all, as it decodes them in a few seconds."""
_AT_ONCE = 4
"""Number of shards that are fetched from a store in parallel."""


class Report(NamedTuple):
    shards: int
    samples: int
    bytes: int


def verify(where: Place) -> Report:
    """Read every byte and decode every sample. Shards at a URL are fetched to temporary files, a few at a time.

    Raises `DriftworkError` with a line for each file that is missing, not in the manifest, or not as it was written.
    """
    manifest = read_manifest(where)
    if isinstance(where, Path):
        there = {path.name for path in where.glob("*.tar")}
        found = _in_folder(where, manifest)
    else:
        there = shards_among(Store(where).names())
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(partial(_fault_there, Store(where), manifest.spec), manifest.shards))
    faults = [(shard.file, fault) for shard, fault in zip(manifest.shards, found, strict=True)]
    faults += [(file, "not in the manifest") for file in there - {shard.file for shard in manifest.shards}]
    bad = [f"{where}/{file}: {fault}" for file, fault in sorted(faults) if fault]
    if bad:
        raise DriftworkError("\n".join(bad))
    return Report(
        len(manifest.shards),
        sum(shard.samples for shard in manifest.shards),
        sum(shard.bytes for shard in manifest.shards),
    )


def _in_folder(folder: Path, manifest: Manifest) -> list[str]:
    """Return the fault of each shard, or an empty string; large data sets are checked by processes on all cores."""
    paths = [folder / shard.file for shard in manifest.shards]
    specs = [manifest.spec] * len(paths)
    if sum(shard.samples for shard in manifest.shards) <= _ALONE:
        return list(map(_fault, paths, manifest.shards, specs))
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(paths)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(_fault, paths, manifest.shards, specs))


def _fault_there(store: Store, spec: DataSpec, shard: Shard) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, shard.file)
        with suppress(MissingError):
            store.fetch(shard.file, path)
        return _fault(path, shard, spec)


def _fault(path: Path, shard: Shard, spec: DataSpec) -> str:
    """Return the fault of one shard, or an empty string."""
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
                read_sample(handle, shard, index, spec)
    except DriftworkError as error:
        return str(error)
    return ""
