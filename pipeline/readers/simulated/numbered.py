"""Items of simulated data sets: sequence n of a split, which no file is behind."""

from typing import Protocol

from pipeline.sequence import Item, Split


class Sizes(Protocol):
    """Config of a simulated data set."""

    train: int
    val: int
    test: int


def items(sizes: Sizes) -> list[Item]:
    """Return an item for each sequence, named SPLIT-NUMBER, sorted by name."""
    splits: dict[Split, int] = {"train": sizes.train, "val": sizes.val, "test": sizes.test}
    named = [(f"{split}-{n:06d}", split) for split, size in splits.items() for n in range(size)]
    return [Item(name, group=name, files=(), split=split) for name, split in sorted(named)]
