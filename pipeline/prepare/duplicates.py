"""Groups that hold the same content become one, so that no piece is trained on under one name and tested under another.

What an item holds is known when it has been read: equal files give equal values, and so do two MIDI files that differ
in their bytes and not in their notes. A file that cannot be read joins nothing. Groups are joined under the name of the
first of them, which alone decides their split.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from driftwork.errors import DriftworkError
from driftwork.files import printable
from pipeline.sequence import Item, Sequence


def digest(sequences: Iterable[Sequence]) -> str:
    """Return the sha256 of the values of all sequences of an item."""
    content = hashlib.sha256()
    for sequence in sequences:
        values = sequence.values
        content.update(f"{values.dtype.str} {values.shape}\n".encode())
        packed = np.packbits(values.view(np.uint8)) if values.dtype == np.bool_ else values
        content.update(packed.tobytes())
    return content.hexdigest()


def joined(contents: Iterable[tuple[Item, str]], where: str) -> dict[str, str]:
    """Return a map from each group that is joined to another to that other one, its names as `escaped` writes them.

    Args:
        contents: items that could be read, with the `digest` of each.
        where: the beginning of an error's line.

    Raises:
        DriftworkError: the data set brings its own splits and has the same content in two of them.
    """
    first: dict[str, str] = {}

    def root(group: str) -> str:
        while group in first:
            group = first[group]
        return group

    seen: dict[str, Item] = {}
    for item, content in sorted(contents):
        other = seen.setdefault(content, item)
        if other.split != item.split:
            raise DriftworkError(
                f"{where}: {printable(other.name)} and {printable(item.name)} hold the same, and the data set puts "
                "them in two splits; take one of them out"
            )
        low, high = sorted((root(other.group), root(item.group)))
        if low != high:
            first[high] = low
    return {escaped(group): escaped(root(group)) for group in sorted(first)}


def renamed(items: list[Item], joins: Mapping[str, str]) -> list[Item]:
    """Return the items, each in the group that its own is joined to."""
    names = {escaped(item.group): item.group for item in items}
    homes = {group: names.get(joins.get(name, name), group) for name, group in names.items()}
    return [item._replace(group=homes[item.group]) for item in items]


def escaped(name: str) -> str:
    """Write a name on one line, as `printable` does, so that different names stay different."""
    return printable(name.replace("\\", "\\\\"))
