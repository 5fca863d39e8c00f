"""Fetch official archives, check their hashes and unpack them.

TO/NAME             the file as published
TO/fetch.lock.json  per file its sha256 and size at the first download, and the folders unpacked from it
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from driftwork.errors import DriftworkError
from driftwork.files import aside, printable, sha256, writing
from driftwork.lock import locked
from driftwork.progress import progress
from pipeline.fetch.archive import Unpacked, unpack
from pipeline.fetch.download import Patience, download
from pipeline.fetch.sources import FetchConfig, Remote, TableSource, Unpack
from pipeline.fetch.to_table import write

LOCK = "fetch.lock.json"
_MEGABYTE = 10**6
_UNPACKED = 5
"""Estimated size of an archive's contents as a multiple of the archive's: MIDI, and motion capture in text, shrink to
about a quarter."""


class Fetched(NamedTuple):
    files: int
    bytes: int
    new: int
    """Number of files that this call downloaded."""
    folders: tuple[Path, ...]
    """Folders that archives were unpacked into."""
    table: Path | None = None
    """CSV file for the data set `table`, if the archive has a format of its own; otherwise None."""


def fetch(config: FetchConfig, patience: Patience = Patience()) -> Fetched:  # noqa: B008 - immutable
    """Fetch and unpack the files of `config`. Existing files with the right hash are kept.

    Raises:
        DriftworkError: an error of `download` or `unpack`, a file that has changed since its first download, or another
            fetch at work in the folder.
    """
    wanted = config.wanted()
    with locked(config.to / f".{LOCK}", f"to={config.to}", "fetch"):
        book = _Book(config.to / LOCK)
        fetched = _files(config, wanted, book, patience)
        folders = [_unpacked(config, file, file.unpack, book) for file in wanted if file.unpack]
        table = _table(config, folders, book) if isinstance(config, TableSource) else None
    size = sum(path.stat().st_size for file in wanted if (path := config.to / file.path).exists())
    return Fetched(len(wanted), size, fetched, tuple(folders), table)


class _Book:
    """`fetch.lock.json`: hash and size of each file at its first download."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._files: dict[str, dict[str, Any]] = json.loads(path.read_text())["files"] if path.exists() else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DriftworkError(f"{path}: cannot be read: {error}; delete it") from None

    def get(self, file: Remote, key: str, default: Any = None) -> Any:
        return self._files.get(file.path, {}).get(key, default)

    def put(self, file: Remote, **facts: Any) -> None:
        self._files[file.path] = {**self._files.get(file.path, {}), **facts}
        with aside(self._path) as temporary:
            temporary.write_text(json.dumps({"files": dict(sorted(self._files.items()))}, indent=2) + "\n")


def _files(config: FetchConfig, wanted: tuple[Remote, ...], book: _Book, patience: Patience) -> int:
    """Put every file in place and return the number of downloads."""
    if len(wanted) == 1:
        with _megabytes(wanted[0].path) as seen:
            return int(_file(config, wanted[0], book, patience, seen))
    fetched = 0
    with progress("files", len(wanted)) as advance:
        for file in wanted:
            fetched += _file(config, file, book, patience, lambda done, total: None)
            advance()
    return fetched


def _file(config: FetchConfig, file: Remote, book: _Book, patience: Patience, seen: Callable[[int, int], None]) -> bool:
    """Put one file in place and return whether it had to be downloaded."""
    target, url = config.to / file.path, f"{config.url}/{file.path}"
    known = book.get(file, "sha256")
    if file.sha256 is not None and known not in (None, file.sha256):
        raise DriftworkError(f"{target}: sha256={file.sha256} in the config, {known} in {LOCK}; delete the wrong one")
    expected = file.sha256 or known
    missing = not target.exists()
    if missing and file.unpack and _is_unpacked(config, file, file.unpack, book):
        return False  # the archive was deleted since, to save its space
    if missing:
        target.parent.mkdir(parents=True, exist_ok=True)
        found = download(url, target, file.max_bytes, expected, patience, seen)
    else:
        found = sha256(target)
    if expected is not None and found != expected:
        raise DriftworkError(f"{target}: sha256 {found}, expected {expected}: damaged, or another file; delete it")
    if known is None:
        book.put(file, sha256=found, bytes=target.stat().st_size, url=url if missing else None)
    return missing


def _is_unpacked(config: FetchConfig, file: Remote, into: Unpack, book: _Book) -> bool:
    folder = config.to / into.into
    if folder.exists() and into.into not in book.get(file, "unpacked", {}):
        raise DriftworkError(f"{folder}: exists already, and was not unpacked from {file.path}; give another to=")
    return folder.exists()


def _unpacked(config: FetchConfig, file: Remote, into: Unpack, book: _Book) -> Path:
    """Unpack an archive, unless that was done before, and return the folder of its contents."""
    folder, archive = config.to / into.into, config.to / file.path
    if _is_unpacked(config, file, into, book):
        return folder
    _check_room(archive)
    print(f"unpacking {archive}", flush=True)

    def approve(root: Path, done: Unpacked) -> None:
        if config.md5_names:
            check_md5_names(root)
        before = book.get(file, "unpacked", {})
        book.put(file, unpacked={**before, into.into: done._asdict()})  # before the rename: a folder means a whole one

    unpack(archive, folder, into.below, into.suffixes, into, approve)
    return folder


def _table(config: TableSource, folders: list[Path], book: _Book) -> Path:
    """Write the CSV of an archive's series, unless it exists from the same files and settings, and return its path."""
    path, first = config.to / config.table, config.files[0]
    settings = config.model_dump(mode="json", exclude=set(TableSource.model_fields) - {"name"})
    made = {"from": [book.get(file, "sha256") for file in config.files], "settings": settings}
    before = book.get(first, "table")
    if path.exists() and before is None:
        raise DriftworkError(f"{path}: exists already, and was not written from {first.path}; give another to=")
    if not path.exists() or before != made:
        print(f"writing {path}", flush=True)
        book.put(first, table={})  # a call that is killed from here on leaves a table that the next one writes again
        with writing(str(path)):
            write(path, config.columns(), config.rows(folders))
        book.put(first, table=made)
    return path


def check_md5_names(root: Path) -> None:
    """Raise `DriftworkError` if a file's name is not the MD5 of its bytes."""
    wrong = []
    for path in sorted(root.rglob("*.mid")):
        with path.open("rb") as handle:
            if hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() != path.stem:
                wrong.append(path.relative_to(root).as_posix())
    if wrong:
        raise DriftworkError(
            f"{len(wrong)} files differ from the MD5 in their names, {printable(wrong[0])} first; delete the archive "
            "and fetch it again"
        )


def _check_room(archive: Path) -> None:
    need, free = _UNPACKED * archive.stat().st_size, shutil.disk_usage(archive.parent).free
    if need > free:
        raise DriftworkError(
            f"{archive.parent}: {free / 1e9:.2f} GB are free; unpacking {archive.name} takes about {need / 1e9:.2f} GB"
            "; free space"
        )


@contextmanager
def _megabytes(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that prints the progress of one file. The number does not fall when a download begins anew."""
    with ExitStack() as stack:
        advance: Callable[[], None] | None = None
        shown = 0

        def seen(done: int, total: int) -> None:
            nonlocal advance, shown
            if advance is None and total:
                advance = stack.enter_context(progress(f"{name}, MB", max(1, total // _MEGABYTE)))
            while advance is not None and shown < done // _MEGABYTE:
                advance()
                shown += 1

        yield seen
