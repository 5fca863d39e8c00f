"""Items of simulated data sets: sequence n of a split, which no file is behind."""

from pipeline.sequence import Item, Split


def items(train: int, val: int, test: int) -> list[Item]:
    """Return an item for each of so many sequences, named SPLIT-NUMBER, sorted by name."""
    splits: dict[Split, int] = {"train": train, "val": val, "test": test}
    named = [(f"{split}-{n:06d}", split) for split, size in splits.items() for n in range(size)]
    return [Item(name, group=name, files=(), split=split) for name, split in sorted(named)]
