"""Arrange tracked runs for a report: groups of comparable runs, kinds of runs in them, and seeds of each kind."""

import json
import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from driftwork.config_base import flatten, load
from driftwork.errors import DriftworkError
from launch.reports import published, tracked_runs
from launch.reports.tracked_runs import TrackedRun
from launch.runs.config import CONFIG_FILE, RunConfig
from launch.scoring import comparison
from launch.scoring.comparison import Evaluated
from launch.scoring.results import merge, read_scores
from launch.scoring.scores import SplitScores
from launch.scoring.side_by_side import columns_of
from launch.tracker import tags
from pipeline.sequence import Split

BEST = "val/best_score"
OUTPUTS = "outputs"


class Member(NamedTuple):
    """A run of a report."""

    tracked: TrackedRun
    evaluated: Evaluated
    """Scores on the split, at the run's own rates."""
    more: dict[str, SplitScores]
    """The model's scores at other rates, by the evaluation's name."""

    @property
    def seed(self) -> int:
        return int(self.evaluated.config["train.seed"])


class Kind(NamedTuple):
    """Runs that differ only in the seed, or in the rate of observation that each was trained and scored at."""

    label: str
    """The papers' name of the model."""
    settings: dict[str, Any]
    full_label: str
    """`label` with the settings that differ from others of that label."""
    members: list[Member]

    @property
    def tables(self) -> list[SplitScores]:
        """Return the scores of each seed."""
        return comparison.by_seed([member.evaluated for member in self.members])

    @property
    def validation(self) -> float:
        """Return the mean best score on the validation split; NaN if the tracker does not have it."""
        return fmean(member.tracked.metrics.get(BEST, math.nan) for member in self.members)


class Group(NamedTuple):
    """Comparable runs: trained on the same data, scored on the same frames."""

    data: str
    dataset: str
    """Name of the data set in `driftwork prepare`."""
    manifest: str
    kinds: list[Kind]

    @property
    def chosen(self) -> list[Kind]:
        """Return one kind per model, the best by validation; all of them if that is not known."""
        kept = []
        for label in dict.fromkeys(kind.label for kind in self.kinds):
            rivals = [kind for kind in self.kinds if kind.label == label]
            known = not any(math.isnan(kind.validation) for kind in rivals)
            kept += [min(rivals, key=lambda kind: kind.validation)._replace(full_label=label)] if known else rivals
        return kept

    @property
    def evaluated(self) -> list[Evaluated]:
        return [member.evaluated for kind in self.kinds for member in kind.members]


def read(uri: str, runs: list[TrackedRun], folder: Path, split: Split) -> tuple[list[Group], list[str]]:
    """Return the groups, and the reasons why other trained runs are left out. Files of runs are fetched to
    `folder/RUN ID`."""
    by_data: dict[str, list[Member]] = {}
    left_out = []
    for run in reversed(runs):  # the newest first, since it counts of two equal runs
        if tags.MODEL not in run.tags:
            continue
        try:
            tracked_runs.fetch(uri, run.run_id, (CONFIG_FILE, OUTPUTS), folder / run.run_id)
            member = _member(run, folder / run.run_id, split)
        except UnusableError as error:
            left_out.append(f"{run.name} ({run.run_id}): {error}")
        else:
            by_data.setdefault(run.tags.get(tags.MANIFEST, ""), []).append(member)
    groups = []
    for manifest, members in by_data.items():
        kept = [member for member in members if _fits(member, members, left_out)]
        known = kept[0].tracked.tags
        data = known.get(tags.DATA, "")
        groups.append(Group(data, known.get(tags.DATASET, data), manifest, _kinds(kept)))
    return groups, left_out


class UnusableError(Exception):
    """Error for a run that cannot be used in the report. The message is the reason."""


def _member(run: TrackedRun, folder: Path, split: Split) -> Member:
    try:
        config = flatten(load(RunConfig, folder / CONFIG_FILE))
    except DriftworkError as error:
        reason = " ".join(str(error).replace(f"{folder}/", "").split())
        raise UnusableError(f"this version cannot read its config: {reason}") from None
    pattern = re.compile(rf"evaluation-({split}(?:-at-[\d.-]+)?)-sequences\.json")
    found = {}
    for file in sorted((folder / OUTPUTS).glob("evaluation-*-sequences.json")):
        name = pattern.fullmatch(file.name)
        if name:
            found[name[1]] = _scores(folder / OUTPUTS, name[1])
    if split not in found:
        again = run.tags.get(tags.RUN_FOLDER, "RUN")
        raise UnusableError(f"no scores of single sequences; run driftwork evaluate {again} split={split}")
    more = {name: scored["model"] for name, scored in found.items() if name != split}
    return Member(run, Evaluated(folder, config, found[split]), more)


def _scores(folder: Path, name: str) -> dict[str, SplitScores]:
    try:
        return read_scores(folder, name)
    except (DriftworkError, KeyError, TypeError):
        raise UnusableError(f"evaluation-{name}-sequences.json is damaged; evaluate the run again") from None


def _fits(member: Member, members: list[Member], left_out: list[str]) -> bool:
    """Return whether a run is comparable with the first and was not repeated later."""
    run, first = member.tracked, members[0]
    column = comparison.of_other_frames(member.evaluated, first.evaluated)
    for newer in members[: members.index(member)]:
        same = comparison.settings(newer.evaluated.config) == comparison.settings(member.evaluated.config)
        if same and newer.seed == member.seed and _places(newer) == _places(member):
            left_out.append(f"{run.name} ({run.run_id}): the same model, settings and seed as {newer.tracked.run_id}")
            return False
    if column is not None:
        name = first.tracked.run_id
        left_out.append(
            f"{run.name} ({run.run_id}): {column.task} {column.name} was scored on other frames than in {name}"
        )
    return column is None


def _places(member: Member) -> list[tuple[str, str]]:
    """Return the tasks with rates or horizons at which the model was scored."""
    return [(column.task, column.name) for column in columns_of([member.evaluated.scored["model"]])]


def _kinds(members: list[Member]) -> list[Kind]:
    by_settings: dict[str, list[Member]] = {}
    for member in members:
        key = json.dumps(comparison.settings(member.evaluated.config), sort_keys=True)
        by_settings.setdefault(key, []).append(member)
    all_settings = [comparison.settings(same[0].evaluated.config) for same in by_settings.values()]
    kinds = []
    for kind, same in zip(all_settings, by_settings.values(), strict=True):
        label = published.label(kind)
        rivals = [rival for rival in all_settings if published.label(rival) == label]
        full_label = comparison.labelled(label, comparison.differing(kind, rivals))
        kinds.append(Kind(label, kind, full_label, sorted(same, key=lambda member: member.seed)))
    return sorted(kinds, key=lambda kind: (published.order(kind.label), [*map(_sortable, kind.settings.values())]))


def _sortable(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))


def with_other_rates(kind: Kind) -> list[SplitScores]:
    """Return the scores of a kind's runs at their own rates and at all others."""
    merged: dict[int, SplitScores] = {}
    for member in kind.members:
        for part in (*member.more.values(), member.evaluated.scored["model"]):
            merge(merged.setdefault(member.seed, {}), part)
    return list(merged.values())
