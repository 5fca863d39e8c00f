"""What a run leaves on disk: `checkpoints/step-N` to go on from, beside the best weights of `launch.runs.weights`.

All ranks write into `step-N.incomplete`; rank 0 adds where training stands and a list of all files with their hashes,
and renames the folder when everything is on the disk. A folder without an ending is therefore whole, and its list tells
whether it still is. The last two are kept, so that there is one to fall back to. `step-N.universal` is a copy that
another number of ranks can load.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwork.errors import DriftworkError
from driftwork.files import aside, sha256, sync, write_error_reason
from launch.runs import weights
from launch.runs.distributed import on_rank_0
from launch.training import file_list

if TYPE_CHECKING:
    from launch.training.engine import Engine  # DeepSpeed takes seconds to load, and reading weights needs none of it

_FOLDER = "checkpoints"
_KEPT = 2
_ENGINE, _STATE = "state", "training.json"
_WHOLE = re.compile(r"step-\d+")


def save(engine: "Engine", run_folder: Path, step: int, state: dict[str, Any]) -> None:
    """Commit a checkpoint; every rank calls it.

    Args:
        state: what training knows of itself, as JSON can hold it; rank 0's is kept.

    Raises:
        DriftworkError: on all ranks, where one could not write; earlier checkpoints are what they were.
    """
    root = run_folder / _FOLDER
    final, incomplete = root / f"step-{step:07d}", root / f"step-{step:07d}.incomplete"
    try:
        hashes = {f"{_ENGINE}/{name}": sha for name, sha in engine.save(incomplete / _ENGINE).items()}
    except DriftworkError:
        if engine.ranks.rank == 0:
            shutil.rmtree(incomplete, ignore_errors=True)
        raise
    about = {"ranks": engine.ranks.world, "zero_stage": engine.optim.zero_stage, **state}
    on_rank_0(engine.ranks, partial(_commit, incomplete, final, about, hashes))


def load(engine: "Engine", run_folder: Path) -> dict[str, Any] | None:
    """Go back to the last checkpoint that is whole; every rank calls it. Returns the `state` it was saved with, or
    None where there is no checkpoint. Raises as `ready` does."""
    folder: Path | None = on_rank_0(engine.ranks, partial(ready, run_folder, engine.ranks.world))
    if folder is None:
        return None
    engine.load(folder / _ENGINE)
    return _about(folder)


def ready(run_folder: Path, ranks: int) -> Path | None:
    """The last checkpoint that is whole, in a form that so many ranks can load; None where there is none. One process
    alone may call it: what is left of an interrupted save goes, and damaged checkpoints are put aside.

    Raises:
        DriftworkError: all checkpoints are damaged, or the last one cannot be divided among so many ranks.
    """
    root = run_folder / _FOLDER
    for unfinished in root.glob("*.incomplete"):
        shutil.rmtree(unfinished)
    folders = _whole(root)
    for folder in reversed(folders):
        damage = file_list.damage(folder)
        if not damage:
            return _for_ranks(folder, ranks)
        print(f"{folder} is damaged and not used: {damage}", flush=True)
        shutil.rmtree(folder.with_suffix(".damaged"), ignore_errors=True)
        folder.rename(folder.with_suffix(".damaged"))
    if folders:
        raise DriftworkError(f"{root}: no checkpoint is whole; delete the folder to train from the start")
    return None


def last_step(run_folder: Path) -> int:
    """The step of the last checkpoint, 0 where there is none; whether it is whole, `ready` finds out."""
    return max((int(folder.name.removeprefix("step-")) for folder in _whole(run_folder / _FOLDER)), default=0)


def save_best(engine: "Engine", run_folder: Path) -> None:
    """Weights as safetensors, without pickle; every rank calls it. Raises as `save` does."""
    on_rank_0(engine.ranks, partial(weights.write, engine.weights(), run_folder))


def _commit(incomplete: Path, final: Path, about: dict[str, Any], hashes: dict[str, str]) -> None:
    with _told(incomplete):
        sync(incomplete / _ENGINE)
        with aside(incomplete / _STATE) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n")
        file_list.write(incomplete, {**hashes, _STATE: sha256(incomplete / _STATE)})
        shutil.rmtree(final, ignore_errors=True)  # of the same step, where SIGTERM came before a validation
        os.rename(incomplete, final)
        sync(final.parent)
        with aside(final.parent / "latest") as temporary:
            temporary.write_text(final.name)
        kept = {folder.name for folder in _whole(final.parent)[-_KEPT:]}
        for old in final.parent.glob("step-*"):
            if old.name not in kept:
                shutil.rmtree(old)


def _for_ranks(folder: Path, ranks: int) -> Path:
    """The checkpoint itself where it fits, else its universal form, which is made where there is none."""
    about = _about(folder)
    if about["ranks"] == ranks or about["zero_stage"] == 0:
        return folder
    if about["zero_stage"] == 3:
        raise DriftworkError(
            f"{folder}: saved by {about['ranks']} ranks at optim.zero_stage=3, which no other number can load"
        )
    universal = folder.with_suffix(".universal")
    if not universal.exists() or file_list.damage(universal):
        from launch.training.engine import to_universal

        shutil.rmtree(universal, ignore_errors=True)
        incomplete = universal.with_suffix(".universal.incomplete")
        with _told(incomplete):
            to_universal(folder / _ENGINE, incomplete / _ENGINE)
            shutil.copy2(folder / _STATE, incomplete)
            made = [path for path in incomplete.rglob("*") if path.is_file()]
            file_list.write(incomplete, {str(path.relative_to(incomplete)): sha256(path) for path in made})
            os.rename(incomplete, universal)
        print(f"{folder}: saved by {about['ranks']} ranks, made ready for {ranks}", flush=True)
    return universal


@contextmanager
def _told(incomplete: Path) -> Iterator[None]:
    """What the disk says becomes one line, and what could not be finished gives its room back."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter is torch's, where its writer meets a full disk
        shutil.rmtree(incomplete, ignore_errors=True)
        raise DriftworkError(f"{incomplete}: cannot be written: {write_error_reason(error)}") from None


def _about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / _STATE).read_bytes())
    return about


def _whole(root: Path) -> list[Path]:
    """Those that were committed, the oldest first."""
    return sorted(path for path in root.glob("step-*") if _WHOLE.fullmatch(path.name))
