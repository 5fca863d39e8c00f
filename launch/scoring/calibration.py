"""Calibration curves of a whole split, and the expected calibration error.

A curve has one point per bin of predicted probabilities (binary values) or level of central intervals (real values).
The expected calibration error (ECE) is sum_b n_b |frequency_b - confidence_b| / sum_b n_b over bins of all sequences.
Given the sign of each bin's difference, it is a ratio of sums over sequences like all other scores: a sequence
contributes sum_b sign_b (ones - probabilities in bin b), and its standard error follows from that. Where a bin's
difference is within its own error of 0, the sign follows the noise, and the ECE is too large by as much.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from driftwork.files import aside
from launch.scoring.estimates import Estimate, Scores, estimate
from launch.scoring.metrics import METRICS
from launch.scoring.scores import SplitScores
from launch.scoring.uncertainty import BINS, LEVELS


class Point(NamedTuple):
    nominal: float
    """Level of an interval, or mean probability in a bin, percent."""
    found: Estimate
    """Fraction of values in the interval, or of ones in the bin, percent."""
    share: float
    """Fraction of all scored values that belong to the point."""


Curves = dict[str, dict[str, list[Point]]]
"""task -> rate in percent, or horizon in frames -> points"""


def metrics(scored: SplitScores) -> SplitScores:
    """Return the scores without those that only curves need, and with the ECE if there are bins."""
    tables: SplitScores = {}
    for task, columns in scored.items():
        for column, found in columns.items():
            ece = {"ece_percent": _ece(found)} if _binned(found) else {}
            kept = {name: scores for name, scores in found.items() if name in METRICS}
            tables.setdefault(task, {})[column] = kept | ece
    return tables


def curves(scored: SplitScores) -> Curves:
    """Return the calibration curves of the scores; empty without predictive distributions. For a table with real-valued
    and binary channels, return the curves of the real-valued ones."""
    found: Curves = {}
    for task, columns in scored.items():
        for column, scores in columns.items():
            points = _of_levels(scores) or (_of_bins(scores) if _binned(scores) else [])
            if points:
                found.setdefault(task, {})[column] = points
    return found


def _binned(found: dict[str, Scores]) -> bool:
    return "bin_0_frequency" in found


def _ece(found: dict[str, Scores]) -> Scores:
    bins = [(found[f"bin_{k}_frequency"], found[f"bin_{k}_confidence"].x) for k in range(BINS)]
    keys, groups, *_ = bins[0][0]
    x, w = [0.0] * len(keys), [0.0] * len(keys)
    for frequency, confidence in bins:
        gaps = [ones - expected for ones, expected in zip(frequency.x, confidence, strict=True)]
        sign = math.copysign(1.0, math.fsum(gaps))
        x = [total + sign * gap for total, gap in zip(x, gaps, strict=True)]
        w = [total + count for total, count in zip(w, frequency.w, strict=True)]
    return Scores(keys, groups, tuple(x), tuple(w))


def _of_bins(found: dict[str, Scores]) -> list[Point]:
    frequencies = [found[f"bin_{k}_frequency"] for k in range(BINS)]
    total = math.fsum(math.fsum(scores.w) for scores in frequencies)
    return [
        Point(estimate(found[f"bin_{k}_confidence"]).value, estimate(scores), math.fsum(scores.w) / total)
        for k, scores in enumerate(frequencies)
        if any(scores.w)
    ]


def _of_levels(found: dict[str, Scores]) -> list[Point]:
    levels = [(level, found.get(f"coverage_{level}_percent")) for level in LEVELS]
    return [Point(level, estimate(scores), 1.0) for level, scores in levels if scores is not None and any(scores.w)]


def write(folder: Path, name: str, curves: Curves) -> Path:
    """Write `evaluation-NAME-calibration.json`: task -> column -> nominal, value, stderr and share of each point."""
    path = folder / f"evaluation-{name}-calibration.json"
    plain = {task: {column: [_plain(p) for p in points] for column, points in columns.items()}
             for task, columns in curves.items()}  # fmt: skip
    with aside(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=1) + "\n")
    return path


def _plain(point: Point) -> dict[str, float | None]:
    value, stderr = point.found[:2]
    return {
        "nominal": point.nominal, "value": value, "stderr": stderr if math.isfinite(stderr) else None,
        "share": point.share,
    }  # fmt: skip
