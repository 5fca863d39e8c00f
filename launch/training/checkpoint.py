"""Checkpoints of a run, `checkpoints/step-N`, from which training resumes, and its best weights.

All ranks write into `step-N.incomplete`; rank 0 adds the progress of training and a list of all files with their
hashes, and renames the folder when everything is on the disk. A folder without the suffix is therefore complete, and
its list shows whether it is still intact. The last two are kept, so that there is one to fall back to.
`step-N.universal` is a copy that any world size can load.
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

from driftwork.errors import DriftworkError, unwritable
from driftwork.files import aside, sha256, sync, write_error_reason
from launch.runs import weights
from launch.runs.distributed import on_rank_0
from launch.training import file_list

if TYPE_CHECKING:
    from launch.training.engine import Engine  # DeepSpeed takes seconds to load, and reading weights does not need it

_FOLDER = "checkpoints"
_KEPT = 2
_ENGINE, _STATE = "state", "training.json"
_WHOLE = re.compile(r"step-\d+")


def save(engine: "Engine", run_folder: Path, step: int, state: dict[str, Any]) -> None:
    """Commit a checkpoint; every rank calls it.

    Args:
        state: state of the training loop, as JSON; that of rank 0 is kept.

    Raises:
        DriftworkError: on all ranks, if one could not write; earlier checkpoints are intact.
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
    """Load the last intact checkpoint and return the `state` it was saved with, or None without a checkpoint.

    Every rank calls it. Raises as `ready` does."""
    folder: Path | None = on_rank_0(engine.ranks, partial(ready, run_folder, engine.ranks.world))
    if folder is None:
        return None
    engine.load(folder / _ENGINE)
    return _about(folder)


def ready(run_folder: Path, ranks: int) -> Path | None:
    """Return the last intact checkpoint, in a form that `ranks` ranks can load; None without checkpoints.

    Only one process may call it: it deletes the rest of an interrupted save, and moves damaged checkpoints aside.

    Raises:
        DriftworkError: all checkpoints are damaged, or the last one cannot be divided among `ranks` ranks.
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
        raise DriftworkError(f"{root}: no checkpoint is intact; delete the folder to train from the start")
    return None


def last_step(run_folder: Path) -> int:
    """Return the step of the last checkpoint, 0 without one. `ready` checks whether it is intact."""
    return max((int(folder.name.removeprefix("step-")) for folder in _whole(run_folder / _FOLDER)), default=0)


def save_best(engine: "Engine", run_folder: Path) -> None:
    """Save the weights as safetensors, without pickle; every rank calls it. Raises as `save` does."""
    on_rank_0(engine.ranks, partial(weights.write, engine.weights(), run_folder))


def _commit(incomplete: Path, final: Path, about: dict[str, Any], hashes: dict[str, str]) -> None:
    with _as_one_line(incomplete):
        sync(incomplete / _ENGINE)
        with aside(incomplete / _STATE) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n")
        file_list.write(incomplete, {**hashes, _STATE: sha256(incomplete / _STATE)})
        shutil.rmtree(final, ignore_errors=True)  # exists if SIGTERM came before a validation of the same step
        os.rename(incomplete, final)
        sync(final.parent)
        with aside(final.parent / "latest") as temporary:
            temporary.write_text(final.name)
        kept = {folder.name for folder in _whole(final.parent)[-_KEPT:]}
        for old in final.parent.glob("step-*"):
            if old.name not in kept:
                shutil.rmtree(old)


def _for_ranks(folder: Path, ranks: int) -> Path:
    """Return the checkpoint itself if it fits, otherwise its universal form, which is made if it is missing."""
    about = _about(folder)
    if about["ranks"] == ranks or about["zero_stage"] == 0:
        return folder
    if about["zero_stage"] == 3:
        raise DriftworkError(
            f"{folder}: saved by {about['ranks']} ranks at optim.zero_stage=3, which no other "
            f"world size can load; set ranks={about['ranks']}"
        )
    universal = folder.with_suffix(".universal")
    if not universal.exists() or file_list.damage(universal):
        from launch.training.engine import to_universal

        shutil.rmtree(universal, ignore_errors=True)
        incomplete = universal.with_suffix(".universal.incomplete")
        with _as_one_line(incomplete):
            to_universal(folder / _ENGINE, incomplete / _ENGINE)
            shutil.copy2(folder / _STATE, incomplete)
            made = [path for path in incomplete.rglob("*") if path.is_file()]
            file_list.write(incomplete, {str(path.relative_to(incomplete)): sha256(path) for path in made})
            os.rename(incomplete, universal)
        print(f"{folder}: saved by {about['ranks']} ranks, converted for {ranks}", flush=True)
    return universal


@contextmanager
def _as_one_line(incomplete: Path) -> Iterator[None]:
    """Turn errors of the disk into one line, and delete an unfinished checkpoint."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer raises a RuntimeError on a full disk
        shutil.rmtree(incomplete, ignore_errors=True)
        raise unwritable(incomplete, write_error_reason(error)) from None


def _about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / _STATE).read_bytes())
    return about


def _whole(root: Path) -> list[Path]:
    """Return the committed checkpoints, the oldest first."""
    return sorted(path for path in root.glob("step-*") if _WHOLE.fullmatch(path.name))
