"""Find the files of a table: one file, a folder, or a glob."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from driftwork.errors import DriftworkError
from driftwork.files import printable, sha256
from pipeline.readers.raw_files import names_below
from pipeline.readers.tables.config import ENDINGS, TableConfig
from pipeline.sequence import folder


class Found(NamedTuple):
    root: Path
    """Folder that holds all files."""
    names: tuple[str, ...]
    """Names below the folder, sorted."""

    def hashed(self) -> dict[str, str | None]:
        """Return the sha256 of each file, or None for one that cannot be opened."""
        return {printable(name): _hash(self.root / name) for name in self.names}


@dataclass(frozen=True)
class Table:
    """A data set whose sequences are known only once all its files are read.

    `pipeline.prepare.gather` makes a reader of series from it."""

    config: TableConfig


def find(source: Path | None) -> Found:
    """List the files of a table. Raises `DriftworkError` if there are none."""
    if source is not None and not source.exists() and any(char in str(source) for char in "*?["):
        found = _globbed(source)
    else:
        found = Found(folder(source).absolute(), tuple(names_below(source, *ENDINGS)))
    if not found.names:
        raise DriftworkError(f"source={source}: no file that ends in {', '.join(ENDINGS)}; give another source")
    return found


def _globbed(pattern: Path) -> Found:
    parts = pattern.parts
    fixed = next(number for number, part in enumerate(parts) if any(char in part for char in "*?["))
    root = Path(*parts[:fixed]).absolute()
    paths = [path for path in root.glob(str(Path(*parts[fixed:]))) if path.name.lower().endswith(ENDINGS)]
    return Found(root, tuple(sorted(path.relative_to(root).as_posix() for path in paths if not path.is_dir())))


def _hash(path: Path) -> str | None:
    try:
        return sha256(path) if path.is_file() else None  # reading would wait on a pipe, and never end on a device
    except OSError:
        return None
