"""Estimates from the scores of single sequences: ratios of sums, their differences, and clustered standard errors.

A figure is sum(x) / sum(w) over sequences. Its error is linearised, so that each sequence contributes
(x - ratio w) / sum(w) to it, and clustered: contributions are summed within a song, speaker or trial before they are
squared, since windows of one song are not independent (Liang and Zeger, 1986). An error from a handful of groups is
itself noise (Cameron and Miller, 2015, section VI): below `FEW_GROUPS` the sequences count as independent, and the
error applies to these speakers only. Sums are exact, so that no figure depends on the order of the sequences.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import variance
from typing import NamedTuple

from pipeline.split import FEW_GROUPS


class Scores(NamedTuple):
    """One metric of one run by sequence, [N] each, in the order of the keys."""

    keys: tuple[str, ...]
    groups: tuple[str, ...]
    """Song, speaker or trial of each sequence."""
    x: tuple[float, ...]
    w: tuple[float, ...]
    """Weights; 0 for a sequence without scored frames, which does not count."""


class Estimate(NamedTuple):
    value: float
    stderr: float
    n: int
    """Number of sequences behind the value."""
    groups: int
    """Number of songs, speakers or trials that the sequences come from."""


def estimate(scores: Scores) -> Estimate:
    """Return the ratio and its standard error; NaN if there are too few groups, or scores that are not finite."""
    return _combined([(1.0, scores)])


def over_seeds(runs: Sequence[Scores]) -> Estimate:
    """Return the mean over runs of one model that differ in the seed, all scored on the same sequences.

    Its variance is the clustered variance over groups for these runs, plus the variance over runs; for a single run the
    latter is unknown and left out.
    """
    return _with_seeds(_combined([(1 / len(runs), run) for run in runs]), runs)


def difference(ours: Sequence[Scores], reference: Sequence[Scores]) -> Estimate:
    """Return the mean over `ours` minus the mean over `reference`, the runs of two models. It is paired: a song's
    common contribution to both is not in the error, which is otherwise as in `over_seeds`."""
    terms = [(1 / len(ours), run) for run in ours] + [(-1 / len(reference), run) for run in reference]
    return _with_seeds(_combined(terms), ours, reference)


def _combined(terms: Sequence[tuple[float, Scores]]) -> Estimate:
    """Return the sum of factor * ratio over scores of the same sequences."""
    scored = {key: group for _, s in terms for key, group, _, w in zip(*s, strict=True) if w > 0}
    n, groups = len(scored), len(set(scored.values()))
    values: list[float] = []
    errors: dict[str, list[float]] = {}
    for factor, scores in terms:
        known = [row for row in zip(*scores, strict=True) if row[3] > 0]
        if not known or not all(math.isfinite(x) for _, _, x, _ in known):
            values.append(math.nan)
            continue
        total = math.fsum(w for *_, w in known)
        ratio = math.fsum(x for _, _, x, _ in known) / total
        values.append(factor * ratio)
        for key, group, x, w in known:
            errors.setdefault(key if groups < FEW_GROUPS else group, []).append(factor * (x - ratio * w) / total)
    value = sum(values)
    clusters = n if groups < FEW_GROUPS else groups
    if math.isnan(value) or clusters < 2:
        return Estimate(value, math.nan, n, groups)
    squares = math.fsum(math.fsum(parts) ** 2 for parts in errors.values())
    return Estimate(value, math.sqrt(squares * clusters / (clusters - 1)), n, groups)


def _with_seeds(found: Estimate, *models: Iterable[Scores]) -> Estimate:
    """Return the estimate with the variances of each model's mean over its runs added to its own variance."""
    squares = found.stderr**2
    for runs in models:
        values = [estimate(run).value for run in runs]
        if len(values) > 1:
            squares += variance(values) / len(values)
    return found._replace(stderr=math.sqrt(squares))
