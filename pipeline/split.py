"""Train, validation and test splits by a hash of the group, so that no song (speaker, trial) is in two of them.

A group's split depends on its name alone: files can be added or removed without moving another group. The fractions
hold on average over many groups. In a small data set a split may be empty by chance; only then the group whose hash is
nearest to that split's interval is moved there.
"""

import hashlib
import os
from collections.abc import Collection

from pipeline.sequence import Item, Split

FEW_GROUPS = 10
"""Number of groups below which the standard errors of a split's scores are unreliable."""


def position(group: str) -> float:
    """Return the position of a group in [0, 1), where test comes first, then validation, then train."""
    digest = hashlib.sha256(os.fsencode(group)).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: exact in a double, and never 1.0


def split_of(group: str, val: float, test: float) -> Split:
    """Return the split of a group, for fractions `val` and `test` of all groups; the rest is train."""
    at = position(group)
    if at < test:
        return "test"
    return "val" if at < test + val else "train"


def assign(items: Collection[Item], val: float, test: float) -> dict[str, Split]:
    """Map each group to its split. A split that the data set defines itself is kept, and no other group is put into it.

    If there are too few groups for every split with a fraction above 0, train is filled first, then validation.
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
