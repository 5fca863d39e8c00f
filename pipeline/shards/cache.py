"""Copy data sets from a store or a remote file system to this machine's disk.

    CACHE_DIR/HASH/        shards and, written last, the manifest whose hash names the folder
    CACHE_DIR/HASH.lock    held by the one process that copies; all others on the machine wait for it

A copy is used by all runs, even while the store cannot be reached. A folder may be deleted whenever nothing reads it.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from driftwork.errors import DriftworkError
from driftwork.files import aside, sha256, writing
from driftwork.lock import in_turn
from driftwork.progress import progress
from pipeline.shards.manifest import MANIFEST, Manifest, Shard, read_manifest
from pipeline.shards.storage import MissingError, Place, Store

_AT_ONCE = 8
"""Number of shards that are copied, or hashed, in parallel."""
_SPARE_DISK = 64 * 2**20
"""Minimum free space that a copy leaves on the disk, in bytes."""


class _DamagedError(Exception):
    """Error for a copied shard that differs from the manifest."""


def find_manifest(where: Place, cache_dir: Path | None, known: str | None = None) -> Manifest:
    """Read the manifest of a data set. If its hash is `known`, the copy on this machine is read, not the store."""
    if known is not None and is_copied(where, cache_dir):
        with suppress(DriftworkError):
            copied = read_manifest(_root(cache_dir) / known)
            if copied.hash == known:
                return copied
    return read_manifest(where)


def is_copied(where: Place, cache_dir: Path | None) -> bool:
    """Return whether a data set is read from a copy: always for a URL, for a folder only if a cache is given."""
    return isinstance(where, str) or cache_dir is not None


def local(where: Place, cache_dir: Path | None, manifest: Manifest, *, thorough: bool) -> Path:
    """Copy the data set `manifest` of `where` to this machine, if needed, and return its folder.

    Args:
        cache_dir: folder of the copies. With None, it is $XDG_CACHE_HOME/driftwork or ~/.cache/driftwork for a URL, and
            a folder is not copied.
        thorough: check the hashes of existing files and copy damaged ones again; otherwise check only their sizes.

    Raises:
        DriftworkError: there is not enough disk space, or the store's files differ from the manifest in two attempts.
    """
    if not is_copied(where, cache_dir):
        return Path(where)
    root = _root(cache_dir)
    folder = root / manifest.hash
    if not thorough and (folder / MANIFEST).exists() and all(_whole(folder, shard, False) for shard in manifest.shards):
        return folder
    notice = f"waiting for another process that copies {where} to {root}, or checks it there"
    with in_turn(root / f"{manifest.hash}.lock", f"cache_dir={root}", notice), writing(f"cache_dir={root}"):
        folder.mkdir(exist_ok=True)
        _fill(folder, Store(where), manifest, thorough)
    return folder


def _fill(folder: Path, store: Store, manifest: Manifest, thorough: bool) -> None:
    for left in folder.glob(".*"):  # left by a killed process, since we hold the lock
        left.unlink()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        whole = pool.map(lambda shard: _whole(folder, shard, thorough), manifest.shards)
        wanted = [shard for shard, is_whole in zip(manifest.shards, whole, strict=True) if not is_whole]
    need, free = sum(shard.bytes for shard in wanted), shutil.disk_usage(folder).free
    if need + _SPARE_DISK > free:
        raise DriftworkError(
            f"cache_dir={folder.parent}: {free / 1e9:.2f} GB free, but {store.where} needs {need / 1e9:.2f} GB; "
            "give another cache_dir, or delete data sets in this one"
        )
    if wanted:
        with progress(f"shards copied from {store.where}", len(wanted)) as advance:
            _copy_all(folder, store, manifest, wanted, advance)
    content, page = manifest.encode(), folder / MANIFEST
    if not page.exists() or page.read_bytes() != content:
        with aside(page) as temporary:
            temporary.write_bytes(content)


def _copy_all(
    folder: Path, store: Store, manifest: Manifest, wanted: list[Shard], advance: Callable[[], None]
) -> None:  # fmt: skip
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for done in as_completed([pool.submit(_copy, folder, store, shard) for shard in wanted]):
                done.result()
                advance()
        except (_DamagedError, MissingError) as error:
            pool.shutdown(cancel_futures=True)
            now = read_manifest(store.where).hash
            if now != manifest.hash:
                problem = (
                    f"was replaced while it was copied (manifest {manifest.hash[:12]}, now {now[:12]}); start again"
                )
                raise DriftworkError(f"{store.where}: {problem}") from None
            raise DriftworkError(f"{error}; repair it by `driftwork prepare` with the same out") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _copy(folder: Path, store: Store, shard: Shard) -> None:
    try:
        _copy_once(folder, store, shard)
    except _DamagedError:  # perhaps damaged during the transfer
        _copy_once(folder, store, shard)


def _copy_once(folder: Path, store: Store, shard: Shard) -> None:
    with aside(folder / shard.file) as temporary:
        store.fetch(shard.file, temporary)
        size = temporary.stat().st_size
        if size != shard.bytes:
            raise _DamagedError(f"{store.where}/{shard.file}: {size} bytes, {shard.bytes} in the manifest")
        if sha256(temporary) != shard.sha256:
            raise _DamagedError(f"{store.where}/{shard.file}: its bytes are not those that were written")


def _whole(folder: Path, shard: Shard, thorough: bool) -> bool:
    path = folder / shard.file
    return path.is_file() and path.stat().st_size == shard.bytes and (not thorough or sha256(path) == shard.sha256)


def _root(cache_dir: Path | None) -> Path:
    return cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftwork"
