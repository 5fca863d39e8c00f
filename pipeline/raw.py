"""Raw files: which there are, and their bytes. Only regular files are opened, and no more than a limit is read."""

import os
from pathlib import Path

from pipeline.sequence import UnreadableError


def names_below(root: Path, *endings: str) -> list[str]:
    """The files below `root` whose names end so, in either case: relative, with `/` between parts, sorted."""
    return sorted(
        Path(parent, file).relative_to(root).as_posix()
        for parent, _, files in os.walk(root)
        for file in files
        if file.lower().endswith(endings)
    )


def read_raw(path: Path, limit: int, kind: str) -> bytes:
    """The bytes of a file of at most `limit`; `kind` says what it should be.

    Raises `UnreadableError` with the reason.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
            raise UnreadableError("not a regular file")
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if size > limit:
                raise UnreadableError(f"{size / 2**20:.0f} MiB is too large for {kind}")
            return handle.read(limit)
    except OSError as error:
        raise UnreadableError(f"cannot be opened: {error.strerror}") from None
