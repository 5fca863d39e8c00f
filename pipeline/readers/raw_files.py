"""List raw files and read their bytes. Only regular files are opened, and no more than a limit is read."""

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.sequence import UnreadableError, folder


class Listing(NamedTuple):
    """Contents of a folder and its subfolders: relative names, with `/` between parts, sorted."""

    files: tuple[str, ...]
    """All files, including those in linked folders."""
    ignored: tuple[str, ...]
    """Files that macOS creates beside others: `._NAME`, `.DS_Store`, and everything below `__MACOSX`."""
    loops: tuple[str, ...]
    """Links that are not followed: to a folder that contains them or, below another link, to one already listed."""
    dead: tuple[str, ...]
    """Links without a target, which may have been a folder. They are also in `files`."""


class _Folder(NamedTuple):
    name: str
    """Relative name with a `/` at its end; empty for the first folder."""
    above: frozenset[tuple[int, int]]
    """(device, inode) of the folder and of its parents."""
    linked: bool
    """Whether the folder was reached through a link."""
    ignored: bool


def listing(root: Path) -> Listing:
    """List all files below `root`, in linked folders too.

    Folders that link to each other can be reached by n! paths; below a link, each is listed once.

    Raises:
        DriftworkError: a folder cannot be listed, so that its files would be missed silently.
    """
    files: list[str] = []
    ignored: list[str] = []
    loops: list[str] = []
    dead: list[str] = []
    seen = {_identity(root, "")}
    waiting = deque([_Folder("", frozenset(seen), linked=False, ignored=False)])
    while waiting:
        here = waiting.popleft()
        for entry in _entries(root, here.name):
            name, is_ignored = here.name + entry.name, here.ignored or _is_of_macos(entry.name)
            if _is_folder(entry, root, name):
                identity, is_link = _identity(root, name), entry.is_symlink()
                if identity in here.above or (here.linked and is_link and identity in seen):
                    loops.append(name)
                else:
                    seen.add(identity)
                    waiting.append(_Folder(f"{name}/", here.above | {identity}, here.linked or is_link, is_ignored))
                continue
            (ignored if is_ignored else files).append(name)
            if not is_ignored and entry.is_symlink() and not Path(entry.path).exists():
                dead.append(name)
    return Listing(*(tuple(sorted(names)) for names in (files, ignored, loops, dead)))


def names_below(source: Path | None, *endings: str) -> list[str]:
    """Return the files below `source` with one of these endings, in upper or lower case, or the name of a single file.

    Raises:
        DriftworkError: `source` is missing, or is a single file of another ending.
    """
    root = folder(source)
    if root == source:
        return [name for name in listing(root).files if name.lower().endswith(endings)]
    assert source is not None, "`folder` has checked the source"
    if not source.name.lower().endswith(endings):
        raise DriftworkError(f"source={source}: its name does not end in {' or '.join(endings)}; give another file")
    return [source.name]


def only_folder(source: Path | None, holds: str) -> Path:
    """Return `folder(source)`. Raises `DriftworkError` if it is a single file, since the data set needs several."""
    root = folder(source)
    if root != source:
        raise DriftworkError(f"source={source}: is a single file; give the folder that holds {holds}")
    return root


def read_raw(path: Path, limit: int, kind: str) -> bytes:
    """Read a file of at most `limit` bytes; `kind` names its kind in error messages.

    Raises `UnreadableError` with the reason.
    """
    try:
        if path.exists() and not path.is_file():  # reading would wait on a pipe, and never end on a device
            raise UnreadableError("not a regular file")
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if size > limit:
                raise UnreadableError(f"{size / 2**20:.0f} MiB is too large for {kind}")
            return handle.read(limit)
    except OSError as error:
        raise UnreadableError(f"cannot be opened: {error.strerror}") from None


def _is_of_macos(name: str) -> bool:
    return name.startswith("._") or name in (".DS_Store", "__MACOSX")


def _entries(root: Path, name: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder in the order of their names, which is the same on every machine."""
    try:
        with os.scandir(root / name) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unlistable(root, name, error) from None


def _is_folder(entry: os.DirEntry[str], root: Path, name: str) -> bool:
    """Return whether the entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except PermissionError as error:
        raise _unlistable(root, name, error) from None
    except OSError:  # links that point to each other
        return False


def _identity(root: Path, name: str) -> tuple[int, int]:
    try:
        status = (root / name).stat()
    except OSError as error:
        raise _unlistable(root, name, error) from None
    return status.st_dev, status.st_ino


def _unlistable(root: Path, name: str, error: OSError) -> DriftworkError:
    what = f"{printable(name.rstrip('/'))}: " if name else ""
    return DriftworkError(
        f"source={root}: {what}cannot be listed: {error.strerror}; make the folder readable, or move it elsewhere"
    )
