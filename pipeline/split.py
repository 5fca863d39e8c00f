"""Train, validation and test by a hash of the group, so that no song (speaker, trial) is in two of them.

A group's split depends on its name alone: files can be added or removed and no other group moves. The shares hold on
average over many groups. A small data set may leave a split empty by chance; then, and only then, the group whose
hash lies nearest to that split's interval goes there instead.
"""

import hashlib
import os
from collections.abc import Collection

from pipeline.sequence import Item, Split


def position(group: str) -> float:
    """Where a group lies in [0, 1): test from 0, then validation, then train."""
    digest = hashlib.sha256(os.fsencode(group)).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: exact in a double, and never 1.0


def split_of(group: str, val: float, test: float) -> Split:
    """The split of a group, for shares `val` and `test` of all groups; the rest is train."""
    at = position(group)
    if at < test:
        return "test"
    return "val" if at < test + val else "train"


def assign(items: Collection[Item], val: float, test: float) -> dict[str, Split]:
    """Group -> split. A split that the data set brings itself is kept, and no other group is drawn into it.

    With too few groups for every split that has a share, train comes first, then validation.
    """
    given = {item.group: item.split for item in items if item.split is not None}
    val, test = (0.0 if name in given.values() else share for name, share in (("val", val), ("test", test)))
    drawn = sorted({item.group for item in items} - given.keys(), key=position)
    natural = [split_of(group, val, test) for group in drawn]
    first_val = natural.count("test")  # in order of position: test, then validation, then train
    first_train = first_val + natural.count("val")
    first_val = min(max(first_val, int(test > 0)), max(len(drawn) - 1 - int(val > 0), 0))
    first_train = min(max(first_train, first_val + int(val > 0)), max(len(drawn) - 1, 0))
    splits: dict[str, Split] = dict.fromkeys(drawn, "train")
    splits |= dict.fromkeys(drawn[:first_train], "val")
    splits |= dict.fromkeys(drawn[:first_val], "test")
    return splits | given
