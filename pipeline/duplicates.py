"""Groups that hold the same content become one, so that no piece is trained on under one name and tested under another.

What an item holds is known when it has been read: equal files give equal values, and so do two MIDI files that differ
in their bytes and not in their notes. A file that cannot be read joins nothing. Groups are joined under the name of the
first of them, which alone decides their split.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from models.errors import DriftworkError
from pipeline.files import printable
from pipeline.sequence import Item, Sequence


def digest(sequences: Iterable[Sequence]) -> str:
    """sha256 of the values of all sequences of an item."""
    content = hashlib.sha256()
    for sequence in sequences:
        values = sequence.values
        content.update(f"{values.dtype.str} {values.shape}\n".encode())
        packed = np.packbits(values.view(np.uint8)) if values.dtype == np.bool_ else values
        content.update(packed.tobytes())
    return content.hexdigest()


def joined(contents: Iterable[tuple[Item, str]], where: str) -> dict[str, str]:
    """Group -> the group that it is joined to, for those that are, of items and what `digest` says of each. The names
    are as `escaped` has them.

    Raises `DriftworkError`, which begins with `where`, if the data set itself puts the same content into two splits.
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
    """The items under the groups that theirs are joined to."""
    names = {escaped(item.group): item.group for item in items}
    homes = {group: names.get(joins.get(name, name), group) for name, group in names.items()}
    return [item._replace(group=homes[item.group]) for item in items]


def escaped(name: str) -> str:
    """As `printable` has it, and no two names the same."""
    return printable(name.replace("\\", "\\\\"))
