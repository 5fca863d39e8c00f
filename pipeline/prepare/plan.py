"""The recipe of a data set, and the plan that follows from it: which raw items go into which shard.

The plan depends only on the recipe, on the names of the items and on which groups have the same content, so that any
number of workers, and any later attempt, makes the same shards.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from driftwork.config_base import Config, build
from pipeline.prepare.duplicates import renamed
from pipeline.prepare.guard import Limits
from pipeline.readers.registry import EARLIER, DatasetConfig
from pipeline.sequence import SPLITS, Item, Split
from pipeline.shards.manifest import SCHEMA
from pipeline.split import assign


class Recipe(Config):
    """All settings that determine the bytes of a prepared data set, given the raw files."""

    dataset: DatasetConfig
    """Data set, and the settings of its reader."""
    title: str
    """Description of the raw files, for the data card."""
    licence: str
    """Terms of use of the raw files, for the data card."""
    val: float = Field(0.1, ge=0, lt=1)
    """Fraction of the groups (songs, speakers) in the validation split."""
    test: float = Field(0.1, ge=0, lt=1)
    """Fraction of the groups (songs, speakers) in the test split."""
    files_per_shard: int = Field(32, ge=1)
    """Number of raw items in a shard. A worker reads this many before it reports progress."""

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val={self.val} and test={self.test} leave nothing to train on; lower them")
        return self


def recorded(recipe: dict[str, Any], where: str) -> Recipe:
    """Return the recipe of a manifest, which may be older than some of the fields. `where` names it in errors."""
    dataset = recipe.get("dataset")
    if isinstance(dataset, dict):
        recipe = recipe | {"dataset": EARLIER.get(str(dataset.get("name")), {}) | dataset}
    return build(Recipe, recipe, where)


class ShardPlan(NamedTuple):
    file: str
    split: Split
    items: tuple[Item, ...]


def make_plan(items: list[Item], recipe: Recipe, joins: Mapping[str, str]) -> list[ShardPlan]:
    """Plan shards of `files_per_shard` items each, train first; within a split, groups are in the order of a hash.

    Args:
        joins: result of `duplicates.joined`. Items keep their places in the order but get the name of the joined group.
    """
    homes = renamed(items, joins)
    splits = assign(homes, recipe.val, recipe.test)
    order = sorted(
        range(len(items)), key=lambda i: (hashlib.sha256(os.fsencode(items[i].group)).digest(), items[i].name)
    )
    plans = []
    for split in SPLITS:
        chosen = [homes[i] for i in order if splits[homes[i].group] == split]
        for number, at in enumerate(range(0, len(chosen), recipe.files_per_shard)):
            part = tuple(chosen[at : at + recipe.files_per_shard])
            plans.append(ShardPlan(f"{split}-{number:06d}.tar", split, part))
    return plans


def fingerprint(recipe: Recipe, plan: ShardPlan, inputs: dict[str, str | None], limits: Limits) -> str:
    """Return a hash that is equal if and only if the shard would have the same bytes."""
    items = [(item.name, item.group) for item in plan.items]
    parts = [SCHEMA, recipe.model_dump(mode="json"), plan.file, items, sorted(inputs.items()), limits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
