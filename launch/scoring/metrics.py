"""Registry of metrics, by their names in results."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from driftwork.errors import DriftworkError
from driftwork.registry import source_of
from launch.scoring.ratio import Ratio


class Metric(NamedTuple):
    label: str
    """Label of a row or an axis."""
    caption: str = ""
    """Caption below a table in the papers' form; empty for metrics that the papers do not print."""
    sign: int = -1
    """1 where more is better, -1 where less is, 0 where neither is."""
    beside: bool = False
    """Whether the metric has its own part in the second table of runs side by side."""


METRICS = {
    "nll_nats_per_frame": Metric("NLL, nats/frame", "NLL in nats per frame"),
    "nll_nats_per_dimension": Metric("NLL, nats/dim.", "NLL in nats per dimension"),
    "nll_importance_weighted_nats_per_frame": Metric("NLL, IW bound"),
    "nll_importance_weighted_nats_per_dimension": Metric("NLL, IW bound"),
    "nll_particle_filter_nats_per_frame": Metric("NLL, particle filter"),
    "nll_particle_filter_nats_per_dimension": Metric("NLL, particle filter"),
    "kl_nats_per_frame": Metric("of it KL"),
    "kl_nats_per_dimension": Metric("of it KL"),
    "nll_nats_per_entry": Metric("NLL, nats/entry", "NLL in nats per entry"),
    "nll_importance_weighted_nats_per_entry": Metric("NLL, IW bound"),
    "nll_particle_filter_nats_per_entry": Metric("NLL, particle filter"),
    "kl_nats_per_entry": Metric("of it KL"),
    "accuracy_decided_percent": Metric(
        "accuracy, %", "pred. and interp. accuracy in %, by the decision of the best expected score", sign=1
    ),
    "accuracy_percent": Metric(
        "accuracy at 0.5, %", "pred. and interp. accuracy in %, at the papers' threshold of 0.5", sign=1, beside=True
    ),
    "rmse": Metric("RMSE", "pred. and interp. RMSE"),
    "mse": Metric("MSE", "MSE of forecasts up to a horizon in frames"),
    "mse_of_mean_path": Metric("MSE of the mean path"),
    "mse_standardized": Metric("MSE, standardized", "MSE in units of each channel's variance"),
    "mse_of_mean_path_standardized": Metric("MSE of the mean path, standardized"),
    "crps": Metric("CRPS", beside=True),
    "crps_standardized": Metric("CRPS, standardized", beside=True),
    "coverage_50_percent": Metric("in 50 % interval, %", sign=0, beside=True),
    "coverage_90_percent": Metric("in 90 % interval, %", sign=0, beside=True),
    "brier": Metric("Brier score", beside=True),
    "ece_percent": Metric("calibration error, %", beside=True),
}

Score = Callable[[Tensor, Tensor, Tensor], Ratio]
"""Function from (expectation [B, T, D], truth [B, T, D], scored frames [B, T]) to the score of each sequence. For a
table it gets each channel as a separate sequence."""

ADDED: dict[str, Score] = {}
"""Scores of plugins by name, beside those that `scores` computes."""


def add(name: str, metric: Metric, score: Score) -> None:
    """Add a metric of predictions, interpolations and forecasts.

    Raises:
        DriftworkError: the name is taken.
    """
    known = source_of(ADDED[name]) if name in ADDED else "one of Driftwork's"
    if name in METRICS and known != source_of(score):
        raise DriftworkError(f"metric '{name}' exists already, from {known}; choose another name")
    METRICS[name], ADDED[name] = metric, score
