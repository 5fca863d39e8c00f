"""Select the sequences to generate from: of a split, by length or by key, or of the user's own file."""

import difflib
from pathlib import Path
from typing import Self

import numpy as np

from driftwork.config_base import Config, build
from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.readers.registry import EARLIER, DatasetConfig, reader
from pipeline.reading.stream import Stream
from pipeline.sequence import FileReader, Sequence, UnreadableError
from pipeline.shards.manifest import Manifest

_SHOWN = 5
"""Number of keys that an error lists."""


class _Recipe(Config):
    """The part of a recipe about reading raw files."""

    dataset: DatasetConfig
    """Data set whose reader reads the file, with its settings."""

    @classmethod
    def recorded(cls, manifest: Manifest) -> Self:
        """Return the recipe of a data set. A field that an older recipe lacks gets the value that was fixed at that
        time."""
        earlier = EARLIER.get(manifest.dataset, {})
        return build(cls, {"dataset": earlier | manifest.recipe["dataset"]}, where="manifest.json")


def longest(stream: Stream, count: int) -> list[Sequence]:
    """Return the `count` longest sequences of the split; of sequences of equal length, the first."""
    frames = np.array([frames for shard in stream.dataset.shards for frames in shard.frames])
    positions = np.argsort(-frames, kind="stable")[:count]
    return [stream.dataset.read(int(position)) for position in positions]


def named(stream: Stream, keys: tuple[str, ...]) -> list[Sequence]:
    """Return the sequences of the split that have these keys, in this order. Raises `DriftworkError` for others."""
    found: dict[str, Sequence] = {}
    known = []
    for position in range(stream.samples):
        sequence = stream.dataset.read(position)
        known.append(sequence.key)
        if sequence.key in keys:
            found[sequence.key] = sequence
        if len(found) == len(set(keys)):
            return [found[key] for key in keys]
    missing = next(key for key in keys if key not in found)
    near = difflib.get_close_matches(missing, known, n=_SHOWN, cutoff=0.4) or known[:_SHOWN]
    more = f" and {len(known) - len(near)} others" * (len(known) > len(near))
    raise DriftworkError(f"keys={missing}: the split has no such sequence; choose among {', '.join(near)}{more}")


def from_file(path: Path, manifest: Manifest) -> list[Sequence]:
    """Read the sequences of the user's own file in order, with the recipe of the data set.

    Raises `DriftworkError` if the file cannot be used, or the data set does not consist of such files.
    """
    own = reader(_Recipe.recorded(manifest).dataset)
    if not isinstance(own, FileReader):
        raise DriftworkError(
            f"source={path}: data set '{manifest.dataset}' is not read file by file; use keys= instead"
        )
    if not path.is_file():
        raise DriftworkError(f"source={path}: no such file; give an existing one")
    try:
        return own.read_file(path)
    except UnreadableError as error:
        raise DriftworkError(f"source={printable(str(path))}: {error}; give another file") from None
