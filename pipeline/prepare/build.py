"""Build one shard: hash its inputs, read them, and write the tar file and its entry. Each Ray task runs this code,
which does not import Ray.

A worker may die at any point, and another one may build its shard again: the tar is written first and its entry last,
both atomically. An entry with the right fingerprint beside an intact tar is a finished shard. For a store both are
built in the worker's own folder; the tar is uploaded under its final name, its entry below `INCOMPLETE`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from driftwork.config_base import Config
from driftwork.files import aside, printable, sha256
from pipeline.prepare.duplicates import digest
from pipeline.prepare.guard import Limits, guard
from pipeline.prepare.plan import Recipe, ShardPlan, fingerprint
from pipeline.sequence import Reader, Sequence, UnreadableError
from pipeline.shards.manifest import Shard
from pipeline.shards.shard_files import write_shard
from pipeline.shards.stats import Moments
from pipeline.shards.storage import MissingError, Store

INCOMPLETE = ".incomplete"
"""Folder of unfinished shards and entries, within the output folder of a preparation."""


class Unreadable(Config):
    file: str
    """Path of the raw file below the source folder."""
    reason: str
    """Reason why the file could not be used, in one line."""


class StaticSums(Config):
    """Moments of the S static covariates (numbers and one-hot categories) of a shard's sequences."""

    mean: tuple[float, ...]
    """Mean of each static covariate over the sequences that have it, in their units."""
    squares: tuple[float, ...]
    """Sum of squared distances from the mean for each static covariate, in the squares of their units."""
    observed: tuple[int, ...]
    """Number of sequences that have each static covariate."""


class Entry(Config):
    """A worker's report on a finished shard, which is small for any size of the data."""

    fingerprint: str
    """Hash of everything that decides the bytes of the shard."""
    shard: Shard | None
    """The shard's entry in the manifest. None if no item could be read."""
    inputs: dict[str, str | None]
    """SHA-256 of each raw file by its path below the source folder. None for a file that could not be opened."""
    contents: tuple[str | None, ...]
    """Result of `digest` for each item of the plan. None for an item that could not be read, or that is simulated."""
    unreadable: tuple[Unreadable, ...]
    """Items that could not be read, with reasons."""
    frames: int
    """Number of frames that are present in the shard."""
    mean: tuple[float, ...]
    """Mean of each of the D channels over the present frames, in units of the data."""
    squares: tuple[float, ...]
    """Sum of squared distances from the mean for each of the D channels, in squared units of the data."""
    observed: tuple[int, ...] | None = None
    """Number of values of each of the D channels, where masks are of each channel."""
    static: StaticSums | None = None
    """Moments of the static covariates. None if there are none."""

    @property
    def moments(self) -> Moments:
        observed = None if self.observed is None else np.array(self.observed, np.int64)
        static, s = None, self.static
        if s is not None:
            static = Moments(0, np.array(s.mean), np.array(s.squares), np.array(s.observed, np.int64))
        return Moments(self.frames, np.array(self.mean), np.array(self.squares), observed, static)


class Job(NamedTuple):
    """Inputs common to all shards of a preparation."""

    recipe: Recipe
    reader: Reader
    source: Path | None
    staging: Path | Store
    """An existing folder that all workers share, or a store."""
    limits: Limits
    gathered: str | None = None
    """Hash of all raw files if the series of a table were gathered from them. None if each item has its own files."""


def build_shard(job: Job, plan: ShardPlan) -> Entry:
    """Read the items of `plan` and write the shard and its entry to the staging folder, unless both exist."""
    if isinstance(job.staging, Store):
        return _build_in_store(job, job.staging, plan)
    inputs = hash_inputs(job.source, plan)
    known: dict[str, str | None] = inputs if job.gathered is None else {"table": job.gathered}
    mark = fingerprint(job.recipe, plan, known, job.limits)
    path = job.staging / plan.file
    entry = _finished(path, mark)
    if entry is not None:
        return entry
    spec, guarded = job.reader.spec(), guard(job.reader, job.source, job.limits)
    moments, unreadable = Moments.empty(spec.dim), []
    contents: list[str | None] = []

    def sequences() -> Iterator[tuple[str, Sequence]]:
        nonlocal moments
        for item in plan.items:
            try:
                read = guarded.read(item)
            except UnreadableError as error:
                unreadable.append(Unreadable(file=printable(item.name), reason=printable(str(error))))
                contents.append(None)
                continue
            contents.append(digest(read) if item.files else None)
            for sequence in read:
                moments = moments.merge(Moments.of_sequence(sequence))
                yield printable(item.name), sequence

    shard = write_shard(path, plan.split, spec, sequences())
    entry = Entry(
        fingerprint=mark,
        shard=shard,
        inputs=inputs,
        contents=tuple(contents),
        unreadable=tuple(unreadable),
        frames=moments.frames,
        mean=tuple(moments.mean.tolist()),
        squares=tuple(moments.squares.tolist()),
        observed=None if moments.observed is None else tuple(moments.observed.tolist()),
        static=_static(moments.static),
    )
    with aside(_entry_path(path)) as temporary:
        temporary.write_text(entry.model_dump_json(), encoding="utf-8")
    return entry


def _static(moments: Moments | None) -> StaticSums | None:
    if moments is None or moments.observed is None:
        return None
    sums = (moments.mean, moments.squares, moments.observed)
    return StaticSums(**dict(zip(StaticSums.model_fields, (tuple(x.tolist()) for x in sums), strict=True)))


def _build_in_store(job: Job, store: Store, plan: ShardPlan) -> Entry:
    with tempfile.TemporaryDirectory(prefix="driftwork-") as scratch:
        path = Path(scratch, plan.file)
        note = f"{INCOMPLETE}/{_entry_path(path).name}"
        with suppress(MissingError):  # built before, and as valid as if built now
            store.fetch(note, _entry_path(path))
            store.fetch(plan.file, path)
        before = path.stat().st_ino if path.exists() else None
        entry = build_shard(job._replace(staging=Path(scratch)), plan)
        after = path.stat().st_ino if path.exists() else None
        if after is None or after != before:
            if after is not None:
                store.put(path, plan.file)
            store.put(_entry_path(path), note)
    return entry


def hash_inputs(source: Path | None, plan: ShardPlan) -> dict[str, str | None]:
    """Map each file that the shard is read from to its sha256, or to None if it cannot be opened."""
    inputs: dict[str, str | None] = {}
    for name in sorted({file for item in plan.items for file in item.files}):
        assert source is not None, "only readers with a source have files"
        try:
            there = (source / name).is_file()  # reading would wait on a pipe, and never end on a device
            inputs[printable(name)] = sha256(source / name) if there else None
        except OSError:
            inputs[printable(name)] = None
    return inputs


def intact(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes and sha256(path) == shard.sha256


def _finished(path: Path, mark: str) -> Entry | None:
    try:
        entry = Entry.model_validate_json(_entry_path(path).read_bytes())
    except (OSError, ValidationError):
        return None
    if entry.fingerprint != mark or (entry.shard is not None and not intact(path, entry.shard)):
        return None
    return entry


def _entry_path(path: Path) -> Path:
    return path.with_suffix(".json")
