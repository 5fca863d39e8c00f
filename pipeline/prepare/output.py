"""The output folder of a preparation.

    FOLDER/.incomplete/   unfinished shards and entries, from which a later attempt continues
    FOLDER/*.tar, quarantine.jsonl, DATACARD.md, and last of all manifest.json

A folder without the manifest is not a data set. Once the manifest exists, only the repair of a damaged shard changes
the folder.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from driftwork.config_base import flatten
from driftwork.errors import DriftworkError, unwritable
from driftwork.files import aside
from driftwork.lock import locked
from pipeline.prepare.build import INCOMPLETE, Unreadable, hash_inputs, intact
from pipeline.prepare.plan import Recipe, ShardPlan, recorded
from pipeline.shards.manifest import MANIFEST, Manifest, read_manifest
from pipeline.shards.storage import Place

QUARANTINE = "quarantine.jsonl"
CARD = "DATACARD.md"
LOCK = "lock"
JOINED = "joined.json"


class Output(NamedTuple):
    folder: Path
    recipe: Recipe

    @property
    def staging(self) -> Path:
        return self.folder / INCOMPLETE

    @property
    def reasons(self) -> Path:
        """Path at which a failed preparation leaves the list of unreadable items, beside the unchanged folder."""
        folder = self.folder.absolute()
        return folder.with_name(f"{folder.name}.{QUARANTINE}")

    def finished(self) -> Manifest | None:
        """Return the manifest of a finished preparation of this recipe. Raises `DriftworkError` for another recipe."""
        if not (self.folder / MANIFEST).exists():
            return None
        manifest = read_manifest(self.folder)
        check_recipe(self.recipe, manifest.recipe, self.folder)
        return manifest

    def damaged(self, manifest: Manifest) -> set[str]:
        """Return the names of the shards that are missing or damaged."""
        return {shard.file for shard in manifest.shards if not intact(self.folder / shard.file, shard)}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the staging folder for this process alone, a new one or that of a killed attempt.

        A failure leaves no empty folders."""
        new = not self.folder.exists()
        with ExitStack() as lock:
            try:
                self._begin(lock)
            except OSError as error:
                raise unwritable(f"out={self.folder}", error.strerror) from None
            try:
                yield
            except DriftworkError:
                if not any(path.name != LOCK for path in self.staging.glob("*")):
                    self.clean()
                if new and not any(self.folder.iterdir()):
                    self.folder.rmdir()
                raise

    def _begin(self, lock: ExitStack) -> None:
        complete = (self.folder / MANIFEST).exists()
        if not (complete or self.staging.is_dir()) and self.folder.is_dir() and any(self.folder.iterdir()):
            raise DriftworkError(f"out={self.folder}: holds other files; give a new or an empty folder")
        lock.enter_context(locked(self.staging / LOCK, f"out={self.folder}", "prepare"))
        if not complete:
            for shard in self.folder.glob("*.tar"):  # the last attempt was killed while it moved them into place
                os.replace(shard, self.staging / shard.name)

    def joins(self) -> dict[str, str]:
        """Return the joined groups that a killed attempt found."""
        try:
            found: dict[str, str] = json.loads((self.staging / JOINED).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def keep_joins(self, joins: dict[str, str]) -> None:
        """Store the joined groups for the next attempt, in case this one is killed."""
        with aside(self.staging / JOINED) as temporary:
            temporary.write_text(json.dumps(joins), encoding="ascii")

    def publish(self, manifest: Manifest, pages: dict[str, bytes]) -> None:
        """Move shards and then pages into place, in this order, and remove the staging folder."""
        for name, page in pages.items():
            with aside(self.staging / name) as temporary:
                temporary.write_bytes(page)
        for name in (*(shard.file for shard in manifest.shards), *pages):
            if (self.staging / name).exists():  # a repair has only the rebuilt shards here
                os.replace(self.staging / name, self.folder / name)
        self.reasons.unlink(missing_ok=True)
        self.clean()

    def clean(self) -> None:
        """Remove files that are not needed once the manifest exists."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def discard(self, unreadable: Iterable[Unreadable]) -> None:
        """Restore the folder as it was before, and write the reasons of unreadable items beside it, if any."""
        self.clean()
        if not (self.folder / MANIFEST).exists():
            for name in (QUARANTINE, CARD):
                (self.folder / name).unlink(missing_ok=True)
        reasons = quarantine(unreadable)
        if reasons:
            self.reasons.write_bytes(reasons)


def check_recipe(recipe: Recipe, there: dict[str, Any], out: Place) -> None:
    """Raise `DriftworkError` if the preparation at `out` has another recipe."""
    ours, theirs = flatten(recipe), flatten(recorded(there, where=f"{out}/{MANIFEST}"))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise _other(out, f"{key} is {theirs.get(key)} there and {ours.get(key)} in this call")


def inputs_of(plans: list[ShardPlan], source: Path | None) -> dict[str, str | None]:
    """Return the sha256 of each raw file of a plan."""
    with ThreadPoolExecutor() as pool:
        hashed = pool.map(lambda plan: hash_inputs(source, plan), plans)
        return {file: digest for inputs in hashed for file, digest in inputs.items()}


def check_inputs(manifest: Manifest, now: dict[str, str | None], out: Place) -> None:
    """Raise `DriftworkError` if the raw files, with hashes `now`, differ from those that the data set at `out` was made
    from."""
    then = manifest.inputs
    changes = {
        "new": sorted(now.keys() - then.keys()),
        "gone": sorted(then.keys() - now.keys()),
        "changed": sorted(file for file in now.keys() & then.keys() if now[file] != then[file]),
    }
    changed = [f"{len(files)} {what} (first: {files[0]})" for what, files in changes.items() if files]
    if changed:
        raise _other(out, f"raw files {', '.join(changed)}")


def _other(out: Place, difference: str) -> DriftworkError:
    return DriftworkError(f"out={out}: holds another preparation ({difference}); give another out, or delete this one")


def quarantine(unreadable: Iterable[Unreadable]) -> bytes:
    """Return the quarantine list as bytes, one JSON object (file, reason) per line."""
    return "".join(f"{entry.model_dump_json()}\n" for entry in unreadable).encode()
