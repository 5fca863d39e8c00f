"""Arrange evaluated runs as rows of a table: pool seeds and folds, and label rows by their differing settings."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from driftwork.config_base import flatten, shortened
from driftwork.errors import DriftworkError
from launch.runs import run_folder
from launch.scoring.results import concatenated, merge, read_scores
from launch.scoring.scores import SplitScores
from launch.scoring.side_by_side import Column, Rows, beside, columns_of, differences, figures
from launch.scoring.tables import Table
from pipeline.sequence import Split

_SEED, _FOLD = "train.seed", "folds.fold"
_RATES = ("observe.train.ratios", "observe.evaluate.ratios")
_MAY_DIFFER = (
    _SEED, "data", "cache_dir", "out", "ranks", "hostfile", "loader_workers", "evaluate.batch_size", "plugins",
    "tracking",
)  # fmt: skip
"""Keys, or sections, of the config in which runs may differ and still count as seeds of one kind."""


def compared(folders: list[Path], split: Split) -> list[Table]:
    """Return the tables of evaluated runs: the scores, the differences to the first run, and further scores. Raises as
    `read_runs` does."""
    runs = read_runs(folders, split)
    rows = rows_of(runs)
    data, _ = run_folder.names(run_folder.config_of(runs[0].folder))
    title, first = f"{data}, {split} split", next(iter(rows))
    further = beside(f"{title}: further scores", rows), beside(f"Further scores, difference to {first}", rows, first)
    return [figures(title, rows), differences(rows, first), *(table for table in further if table is not None)]


class Evaluated(NamedTuple):
    """An evaluated run."""

    folder: Path
    config: dict[str, Any]
    """The run's config, with dotted keys."""
    scored: dict[str, SplitScores]
    """Scores of the model and of each baseline."""


def read_runs(folders: list[Path], split: Split) -> list[Evaluated]:
    """Read evaluated runs. Raises `DriftworkError` if one is not evaluated, or has other data or frames than the
    first."""
    runs = [Evaluated(f, flatten(run_folder.config_of(f)), read_scores(f, split)) for f in folders]
    for other in runs[1:]:
        _check_same_data(other, runs[0])
    runs = pooled(runs)
    for other in runs[1:]:
        _check_same_frames(other, runs[0])
    return runs


def pooled(runs: list[Evaluated]) -> list[Evaluated]:
    """Pool the folds of a cross-validation: one run for each model and seed, scored on all parts of the data.

    Raises `DriftworkError` if a fold is missing or occurs twice.
    """
    whole: dict[str, dict[int, Evaluated]] = {}
    for number, x in enumerate(runs):
        model = {**settings(x.config), _SEED: x.config[_SEED]}
        fold = model.pop(_FOLD, None)
        # A run without folds stays alone.
        folds = whole.setdefault(str(number) if fold is None else json.dumps(model, sort_keys=True), {})
        if fold in folds:
            raise DriftworkError(
                f"{x.folder}: the same model, settings, seed and fold as {folds[fold].folder}; name only one of them"
            )
        folds[fold] = x
    return [_together(list(folds.values())) for folds in whole.values()]


def _together(folds: list[Evaluated]) -> Evaluated:
    first = folds[0]
    if _FOLD not in first.config:
        return first
    missing = set(range(first.config["folds.count"])) - {x.config[_FOLD] for x in folds}
    if missing:
        raise DriftworkError(
            f"{first.folder}: fold {min(missing)} of this cross-validation is missing ({len(missing)} of "
            f"{first.config['folds.count']} are); train and evaluate it, or name its run too"
        )
    config = {key: x for key, x in first.config.items() if key != _FOLD}
    scored = {who: concatenated([x.scored[who] for x in folds]) for who in first.scored}
    return Evaluated(first.folder, config, scored)


def rows_of(runs: list[Evaluated]) -> Rows:
    """Return the models, that of the first run first, then the baselines."""
    kinds: list[tuple[dict[str, Any], list[Evaluated]]] = []
    for new in runs:
        kind = settings(new.config)
        same = next((same for known, same in kinds if known == kind), None)
        if same is None:
            kinds.append((kind, [new]))
            continue
        for old in same:
            if all(old.config[key] == new.config[key] for key in (_SEED, *_RATES)):
                raise DriftworkError(
                    f"{new.folder}: the same model, settings and seed as {old.folder}; name only one of them"
                )
        same.append(new)
    rows = {}
    for kind, same in kinds:
        differences = differing(kind, [known for known, _ in kinds if known["model.name"] == kind["model.name"]])
        tables = by_seed(same)
        differences += [f"{len(tables)} seeds"] * (len(tables) > 1)
        rows[labelled(kind["model.name"], differences)] = tables
    return rows | free(runs)


def by_seed(runs: list[Evaluated]) -> list[SplitScores]:
    """Return the model's scores with each seed, joined over the rates that it was trained for one by one."""
    tables: dict[int, SplitScores] = {}
    for x in runs:
        merge(tables.setdefault(x.config[_SEED], {}), x.scored["model"])
    return list(tables.values())


def free(runs: list[Evaluated]) -> Rows:
    """Return the trivial baselines."""
    rows: Rows = {}
    for x in runs:  # equal for two runs with the same rate or horizon
        for name, table in x.scored.items():
            if name != "model":
                merge(rows.setdefault(name, [{}])[0], table)
    return rows


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run's flat config that define its kind. Runs that differ only in the seed are of one
    kind, and so are runs that were each trained and scored at one rate of observation."""
    trained, scored = (config.get(key) for key in _RATES)
    one_rate = trained == scored and trained is not None and len(trained) == 1
    shared = _MAY_DIFFER + _RATES * one_rate
    return {key: x for key, x in config.items() if not key.startswith(shared)}


def differing(kind: dict[str, Any], rivals: list[dict[str, Any]]) -> list[str]:
    """Return the settings of a kind that differ from some of its rivals."""
    keys = [key for key, x in kind.items() if any(rival.get(key) != x for rival in rivals)]
    return [f"{label} {kind[key]}" for key, label in shortened(keys).items()]


def labelled(name: str, differences: list[str]) -> str:
    return name + (f" ({', '.join(differences)})" if differences else "")


def _check_same_data(run: Evaluated, first: Evaluated) -> None:
    ours, theirs = (run_folder.record_of(x.folder).get("manifest") for x in (run, first))
    if ours != theirs:
        raise DriftworkError(
            f"{run.folder}: trained on other data than {first.folder} (manifests {ours!s:.12} and "
            f"{theirs!s:.12}); compare runs on the same data"
        )


def _check_same_frames(run: Evaluated, first: Evaluated) -> None:
    column = of_other_frames(run, first)
    if column is not None:
        raise DriftworkError(
            f"{run.folder}: {column.task} {column.name} was scored on other frames than in {first.folder}; "
            "evaluate both with the same observe.evaluate"
        )


def of_other_frames(run: Evaluated, first: Evaluated) -> Column | None:
    """Return a column in which the two runs were scored on different frames, or None. Persistence has equal scores
    exactly if the observed and the scored frames are equal."""
    copied, before = run.scored["persistence"], first.scored["persistence"]
    for column in columns_of([copied, before]):
        one, other = column.of(copied), column.of(before)
        if one and other and not (one.keys == other.keys and all(map(_close, one.x + one.w, other.x + other.w))):
            return column
    return None


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6)  # a GPU and a CPU round differently
