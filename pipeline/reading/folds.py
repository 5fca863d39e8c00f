"""Cross-validation: the groups of a data set are divided into parts, each of which is the test split once.

Groups are assigned to the parts in turn, in the order of their hash (`split.position`), so that a division depends only
on the data and the number of parts. The statistics are those of the fold's own train split.
"""

from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest, Shard
from pipeline.shards.shard_files import read_sample
from pipeline.shards.stats import Moments
from pipeline.split import position


class FoldConfig(Config):
    """The division of a data set into folds, and the fold that is the test split."""

    count: int = Field(ge=3)
    """Number of parts that the groups (trials, speakers, songs) are divided into."""
    fold: int = Field(0, ge=0)
    """Number of the part that is the test split, counted from 0. The next part validates, and all others train."""
    with_test: bool = False
    """Whether groups of the data set's own test split are divided among the parts too. By default they are in no
    part."""

    @model_validator(mode="after")
    def _is_a_part(self) -> Self:
        if self.fold >= self.count:
            raise ValueError(
                f"fold={self.fold}: {self.count} parts are numbered 0 to {self.count - 1}; give one of these"
            )
        return self


class _Sample(NamedTuple):
    group: str
    shard: Shard
    """A shard entry that covers only this sample."""
    moments: Moments


def divide(folder: Path, manifest: Manifest, folds: FoldConfig) -> Manifest:
    """Return the manifest of one fold: a shard entry for each sample, with the fold's splits and statistics.

    Every sample is read once, so this suits data sets that are small enough to train on many times.

    Raises:
        DriftworkError: there are fewer groups than parts, or a shard cannot be read.
    """
    samples = [s for shard in manifest.shards for s in _samples(folder, manifest, shard, folds)]
    groups = sorted({sample.group for sample in samples}, key=lambda group: (position(group), group))
    if len(groups) < folds.count:
        raise DriftworkError(f"folds.count={folds.count}: {folder} has only {len(groups)} groups; lower folds.count")
    part = {group: i % folds.count for i, group in enumerate(groups)}
    by_split: dict[Split, list[Shard]] = {"train": [], "val": [], "test": []}
    moments = Moments.empty(manifest.spec.dim)
    for sample in samples:
        split = _split(part[sample.group], folds)
        by_split[split].append(sample.shard.model_copy(update={"split": split}))
        if split == "train":
            moments = moments.merge(sample.moments)
    shards = tuple(shard for split in by_split.values() for shard in split)
    fields = {name: getattr(manifest, name) for name in Manifest.model_fields}  # without a hash that was computed
    return Manifest(**{**fields, "shards": shards, "stats": moments.stats()})


def _split(part: int, folds: FoldConfig) -> Split:
    after = (part - folds.fold) % folds.count
    return "test" if after == 0 else "val" if after == 1 else "train"


def _samples(folder: Path, manifest: Manifest, shard: Shard, folds: FoldConfig) -> list[_Sample]:
    if shard.split == "test" and not folds.with_test:
        return []
    found = []
    try:
        with (folder / shard.file).open("rb") as handle:
            for index in range(shard.samples):
                sequence = read_sample(handle, shard, index, manifest.spec)
                start, size = shard.span(index)
                alone = {"samples": 1, "bytes": start + size, "offsets": (start,), "frames": (shard.frames[index],)}
                moments = Moments.of_sequence(sequence)
                found.append(_Sample(sequence.group, shard.model_copy(update=alone), moments))
    except OSError as error:
        raise DriftworkError(f"{folder / shard.file}: unreadable: {error.strerror}; run `driftwork verify`") from None
    return found
