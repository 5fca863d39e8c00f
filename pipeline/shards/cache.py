"""A data set of a store, or of a file system that is far, on this machine's own disk.

    CACHE_DIR/HASH/        its shards and, last of all, its manifest, by whose hash the folder is called
    CACHE_DIR/HASH.lock    held by the one process that copies; all others on the machine wait for it

What was once copied is used by all runs, and is there when the store is not. A folder may be deleted at any time at
which nothing reads it.
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
"""Shards that are copied, or hashed, at a time."""
_SPARE_DISK = 64 * 2**20
"""Bytes that stay free."""


class _DamagedError(Exception):
    """What came is not what the manifest says."""


def find_manifest(where: Place, cache_dir: Path | None, known: str | None = None) -> Manifest:
    """Of a data set; if its hash is `known`, that of the copy on this machine, and the store is not asked."""
    if known is not None and is_copied(where, cache_dir):
        with suppress(DriftworkError):
            copied = read_manifest(_root(cache_dir) / known)
            if copied.hash == known:
                return copied
    return read_manifest(where)


def is_copied(where: Place, cache_dir: Path | None) -> bool:
    """Whether a data set is read from a copy: those in a store always, a folder's only where a cache is named."""
    return isinstance(where, str) or cache_dir is not None


def local(where: Place, cache_dir: Path | None, manifest: Manifest, *, thorough: bool) -> Path:
    """The folder on this machine that holds the data set `manifest` of `where`, copied there if need be.

    Args:
        cache_dir: null: $XDG_CACHE_HOME/driftwork, or ~/.cache/driftwork, for a URL; for a folder, no copy.
        thorough: hash what is there already, and copy anew what is damaged; else its size is enough.

    Raises:
        DriftworkError: there is no room; or what the store has is not what its manifest says, the second time too.
    """
    if not is_copied(where, cache_dir):
        return Path(where)
    root = _root(cache_dir)
    folder = root / manifest.hash
    if not thorough and (folder / MANIFEST).exists() and all(_whole(folder, shard, False) for shard in manifest.shards):
        return folder
    notice = f"another process copies {where} to {root}, or checks it there; this one waits"
    with in_turn(root / f"{manifest.hash}.lock", f"cache_dir={root}", notice), writing(f"cache_dir={root}"):
        folder.mkdir(exist_ok=True)
        _fill(folder, Store(where), manifest, thorough)
    return folder


def _fill(folder: Path, store: Store, manifest: Manifest, thorough: bool) -> None:
    for left in folder.glob(".*"):  # of a process that was killed; we hold the lock
        left.unlink()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        whole = pool.map(lambda shard: _whole(folder, shard, thorough), manifest.shards)
        wanted = [shard for shard, is_whole in zip(manifest.shards, whole, strict=True) if not is_whole]
    need, free = sum(shard.bytes for shard in wanted), shutil.disk_usage(folder).free
    if need + _SPARE_DISK > free:
        raise DriftworkError(
            f"cache_dir={folder.parent}: {free / 1e9:.2f} GB free, {need / 1e9:.2f} GB of {store.where} to be copied; "
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
                said = f"was replaced while it was copied (manifest {manifest.hash[:12]}, now {now[:12]}); start again"
                raise DriftworkError(f"{store.where}: {said}") from None
            raise DriftworkError(f"{error}; `driftwork prepare` with the same out mends it") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _copy(folder: Path, store: Store, shard: Shard) -> None:
    try:
        _copy_once(folder, store, shard)
    except _DamagedError:  # perhaps on the way
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
