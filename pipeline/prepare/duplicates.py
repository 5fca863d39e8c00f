"""Join groups with the same content, so that no piece is trained on under one name and tested under another.

Content is compared after reading: equal files give equal values, and so do two MIDI files that differ in their bytes
but not in their notes. A file that cannot be read is joined to none. Joined groups take the name of the first of them,
which alone decides their split.
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
    """Map each group that is joined to the group that it joins, with names as `escaped` writes them.

    Args:
        contents: items that could be read, with the `digest` of each.
        where: the beginning of an error message.

    Raises:
        DriftworkError: the data set defines its own splits and has the same content in two of them.
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
                f"{where}: {printable(other.name)} and {printable(item.name)} have the same content, but the data set "
                "puts them in two splits; remove one of them"
            )
        low, high = sorted((root(other.group), root(item.group)))
        if low != high:
            first[high] = low
    return {escaped(group): escaped(root(group)) for group in sorted(first)}


def renamed(items: list[Item], joins: Mapping[str, str]) -> list[Item]:
    """Return the items, with each group replaced by the group that it joins."""
    names = {escaped(item.group): item.group for item in items}
    homes = {group: names.get(joins.get(name, name), group) for name, group in names.items()}
    return [item._replace(group=homes[item.group]) for item in items]


def escaped(name: str) -> str:
    """Return a name on one line, as `printable` does, such that different names stay different."""
    return printable(name.replace("\\", "\\\\"))
