"""The output of a preparation in a store: like `pipeline.prepare.output`, but without renaming and locks.

    URL/.incomplete/recipe.json    the recipe in preparation, written first
    URL/.incomplete/*.json         the entry of each finished shard
    URL/*.tar                      shards, written by the workers under their final names
    URL/quarantine.jsonl, DATACARD.md, and last of all manifest.json

Two simultaneous preparations of one recipe from the same files are harmless, as they write the same bytes. A
preparation is refused if one of another recipe is there, finished or not.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from driftwork.errors import DriftworkError
from pipeline.prepare.build import INCOMPLETE, Unreadable, intact
from pipeline.prepare.output import CARD, JOINED, QUARANTINE, check_recipe, quarantine
from pipeline.prepare.plan import Recipe
from pipeline.shards.manifest import MANIFEST, Manifest, Shard, read_manifest
from pipeline.shards.storage import MissingError, Store, shards_among

_RECIPE = f"{INCOMPLETE}/recipe.json"
_JOINED = f"{INCOMPLETE}/{JOINED}"
_AT_ONCE = 8
"""Number of shards that are read back in parallel."""


class StoreOutput(NamedTuple):
    url: str
    recipe: Recipe

    @property
    def staging(self) -> Store:
        return Store(self.url)

    @property
    def reasons(self) -> str:
        """URL at which a failed preparation leaves the list of unreadable items, beside the folder."""
        return f"{self.url}.{QUARANTINE}"

    def finished(self) -> Manifest | None:
        """Return the manifest of a finished preparation of this recipe. Raises `DriftworkError` for another recipe."""
        if MANIFEST not in self.staging.names():
            return None
        manifest = read_manifest(self.url)
        check_recipe(self.recipe, manifest.recipe, self.url)
        return manifest

    def damaged(self, manifest: Manifest) -> set[str]:
        """Return the names of the shards that are missing or damaged."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            whole = list(pool.map(self._whole, manifest.shards))
        return {shard.file for shard, is_whole in zip(manifest.shards, whole, strict=True) if not is_whole}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Reserve the URL for preparations of this recipe; a failure before the first shard leaves nothing."""
        names = self.staging.names()
        if names and not names & {MANIFEST, _RECIPE}:
            raise DriftworkError(f"out={self.url}: holds other files; give a new or an empty folder")
        if _RECIPE in names:
            self._check_ours()
        else:
            self.staging.write(self._encoded(), _RECIPE)
        try:
            yield
        except DriftworkError:
            with suppress(DriftworkError):  # report only the first error
                if _below_incomplete(self.staging.names()) == {_RECIPE}:
                    self.clean()
            raise

    def joins(self) -> dict[str, str]:
        """Return the joined groups that a killed attempt found."""
        try:
            found: dict[str, str] = json.loads(self.staging.read(_JOINED))
        except (MissingError, ValueError):
            return {}
        return found

    def keep_joins(self, joins: dict[str, str]) -> None:
        """Store the joined groups for the next attempt, in case this one is killed."""
        self.staging.write(json.dumps(joins).encode("ascii"), _JOINED)

    def publish(self, manifest: Manifest, pages: dict[str, bytes]) -> None:
        """Write pages, in this order, and remove the intermediate objects."""
        self._check_ours()
        listed = {shard.file for shard in manifest.shards}
        self.staging.remove(shards_among(self.staging.names()) - listed)
        for name, page in pages.items():
            self.staging.write(page, name)
        self._beside.remove([self.reasons.rpartition("/")[2]])
        self.clean()

    def clean(self) -> None:
        """Remove objects that are not needed once the manifest exists, the recipe last."""
        self.staging.remove(sorted(_below_incomplete(self.staging.names()), key=lambda name: name == _RECIPE))

    def discard(self, unreadable: Iterable[Unreadable]) -> None:
        """Restore the state before the preparation, and write the reasons of unreadable items beside it, if any."""
        names = self.staging.names()
        if MANIFEST not in names:
            self.staging.remove({*shards_among(names), QUARANTINE, CARD})
        self.clean()
        reasons = quarantine(unreadable)
        if reasons:
            self._beside.write(reasons, self.reasons.rpartition("/")[2])

    @property
    def _beside(self) -> Store:
        return Store(self.url.rpartition("/")[0])

    def _encoded(self) -> bytes:
        return json.dumps(self.recipe.model_dump(mode="json")).encode()

    def _check_ours(self) -> None:
        with suppress(MissingError):  # another preparation of the same recipe has just ended
            check_recipe(self.recipe, json.loads(self.staging.read(_RECIPE)), self.url)

    def _whole(self, shard: Shard) -> bool:
        with tempfile.TemporaryDirectory(prefix="driftwork-") as scratch, suppress(MissingError):
            path = Path(scratch, shard.file)
            self.staging.fetch(shard.file, path)
            return intact(path, shard)
        return False


def _below_incomplete(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{INCOMPLETE}/")}
