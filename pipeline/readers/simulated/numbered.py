"""Items of simulated data sets: numbered sequences of each split, without files."""

from typing import Annotated

from pydantic import Field

from pipeline.sequence import Item, Split

TrainSize = Annotated[int, Field(ge=1, description="Number of sequences in the training split.")]
ValSize = Annotated[int, Field(ge=0, description="Number of sequences in the validation split.")]
TestSize = Annotated[int, Field(ge=0, description="Number of sequences in the test split.")]


def items(train: int, val: int, test: int) -> list[Item]:
    """Return items named SPLIT-NUMBER, as many per split as given, sorted by name."""
    splits: dict[Split, int] = {"train": train, "val": val, "test": test}
    named = [(f"{split}-{n:06d}", split) for split, size in splits.items() for n in range(size)]
    return [Item(name, group=name, files=(), split=split) for name, split in sorted(named)]
