"""The manifest, which lists the contents of a prepared data set. It is written last: a folder with one is complete.

Its bytes are a pure function of the raw files and the recipe: they contain no path of the machine, no time and no
number of workers. All code that reads shards first reads the manifest.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from driftwork.config_base import Config, build
from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.sequence import DataSpec, Split
from pipeline.shards.stats import Stats
from pipeline.shards.storage import MissingError, Place, Store

MANIFEST = "manifest.json"
SCHEMA = 1


class Shard(Config):
    """A tar file. Sample i consists of the bytes from `offsets[i]` to `offsets[i + 1]`, or to the end for the last."""

    file: str
    """Name of the tar file in the data set's folder."""
    split: Split
    """Split that the sequences belong to."""
    samples: int
    """Number of sequences in the shard."""
    bytes: int
    """Size of the tar file, in bytes."""
    sha256: str
    """SHA-256 of the tar file's bytes."""
    offsets: tuple[int, ...]
    """Start of each sequence in the tar file, in bytes."""
    frames: tuple[int, ...]
    """Number of frames T of each sequence."""

    def span(self, index: int) -> tuple[int, int]:
        """Return (offset, length) of a sample, in bytes."""
        start = self.offsets[index]
        end = self.offsets[index + 1] if index + 1 < self.samples else self.bytes
        return start, end - start


class Manifest(Config):
    schema_version: Literal[1]
    """Version number of the manifest's format."""
    spec: DataSpec
    """Form of every sequence."""
    recipe: dict[str, Any]
    """Part of the prepare config that decides the bytes: data set, fractions of the splits, shard size, licence."""
    stats: Stats
    """Statistics of the training split."""
    shards: tuple[Shard, ...]
    """Shards in the order of the plan: training, validation, test."""
    items: int
    """Number of raw items that were found."""
    unreadable: int
    """Number of raw items that were left out; quarantine.jsonl has the reasons."""
    inputs: dict[str, str | None]
    """SHA-256 of each raw file by its path below the source folder. None for a file that could not be opened."""
    joined: dict[str, str] = Field({})
    """Map from each duplicate group to the group with the same content that it was joined to. It is left out of the
    file if empty."""

    @property
    def dataset(self) -> str:
        """Name of the data set in the recipe, as in `pipeline.readers.registry`."""
        return str(self.recipe["dataset"]["name"])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the manifest file, which identifies the data set in the records of a run."""
        digest = hashlib.sha256()
        for line in self._lines():
            digest.update(line)
        return digest.hexdigest()

    def of(self, split: Split) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    def encode(self) -> bytes:
        """Return the file's bytes: JSON with one shard per line."""
        return b"".join(self._lines())

    def _lines(self) -> Iterator[bytes]:
        """Yield the JSON line by line. As one tree or one text, the JSON of a large data set would take most of a
        rank's memory."""
        yield b"{\n"
        for name in type(self).model_fields:
            if name != "shards" and (name != "joined" or self.joined):
                value = self.model_dump(mode="json", include={name})[name]
                yield from (f"{json.dumps(name)}: ".encode(), json.dumps(value).encode("ascii"), b",\n")
        yield b'"shards": ['
        for number, shard in enumerate(self.shards):
            yield b",\n  " if number else b"\n  "
            yield json.dumps(shard.model_dump(mode="json")).encode("ascii")
        yield b"\n]\n}\n"


def read_manifest(where: Place) -> Manifest:
    """Read the manifest of a data set. Raises `DriftworkError` if there is none, or none of this schema version."""
    path = f"{where}/{MANIFEST}"
    try:
        raw = json.loads(Store(where).read(MANIFEST) if isinstance(where, str) else Path(path).read_bytes())
    except (FileNotFoundError, NotADirectoryError, MissingError) as error:
        if isinstance(error, NotADirectoryError):
            raise DriftworkError(
                f"{where}: is a file, not a prepared data set; make one with `driftwork prepare CONFIG source={where} "
                "out=FOLDER`"
            ) from None
        why = f" ({error.reason})" if isinstance(error, MissingError) else ""
        raise DriftworkError(
            f"{where}: no {MANIFEST}{why}, so the data set is missing or incomplete; make it with "
            f"`driftwork prepare CONFIG out={where}`"
        ) from None
    except OSError as error:
        raise DriftworkError(f"{path}: cannot be read: {error.strerror}; make it readable") from None
    except (ValueError, RecursionError):
        raise DriftworkError(f"{path}: is not JSON; prepare the data set again") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA:
        found = printable(str(version))[:40]
        raise DriftworkError(
            f"{path}: schema version {found}, but driftwork reads {SCHEMA}; prepare the data set again"
        )
    manifest = build(Manifest, raw, where=path)
    for shard in manifest.shards:
        _check(shard, manifest.spec, path)
    if not len(manifest.stats.mean) == len(manifest.stats.scale) == manifest.spec.dim:
        raise DriftworkError(
            f"{path}: the statistics do not have {manifest.spec.dim} channels; prepare the data set again"
        )
    return manifest


def _check(shard: Shard, spec: DataSpec, path: str) -> None:
    """Raise `DriftworkError` if a shard's fields contradict each other, or its name is not within the folder."""
    ends = (*shard.offsets[1:], shard.bytes)
    if not (
        len(shard.offsets) == len(shard.frames) == shard.samples > 0
        and shard.offsets[0] == 0
        and all(start < end for start, end in zip(shard.offsets, ends, strict=True))
        and 0 < min(shard.frames) <= max(shard.frames) <= spec.length
        and re.fullmatch(r"[A-Za-z0-9_-]{1,100}\.tar", shard.file)
    ):
        name = printable(shard.file)[:80]
        raise DriftworkError(f"{path}: the entry of '{name}' contradicts itself; prepare the data set again")
