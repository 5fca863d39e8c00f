"""What is scored, by the names under which results keep it."""

from typing import NamedTuple


class Metric(NamedTuple):
    label: str
    """Of a row, or of an axis."""
    caption: str = ""
    """Below a table in the papers' form; of those that they print."""
    sign: int = -1
    """1 where more is better, otherwise -1."""


METRICS = {
    "nll_nats_per_frame": Metric("NLL, nats/frame", "NLL in nats a frame"),
    "nll_nats_per_dimension": Metric("NLL, nats/dim.", "NLL in nats a dimension"),
    "nll_importance_weighted_nats_per_frame": Metric("NLL, IW bound"),
    "nll_importance_weighted_nats_per_dimension": Metric("NLL, IW bound"),
    "kl_nats_per_frame": Metric("of it KL"),
    "kl_nats_per_dimension": Metric("of it KL"),
    "accuracy_percent": Metric("accuracy, %", "pred. and interp. accuracy in %", sign=1),
    "rmse": Metric("RMSE", "pred. and interp. RMSE"),
    "mse": Metric("MSE", "MSE of forecasts over so many frames"),
    "mse_of_mean_path": Metric("MSE of the mean path"),
}
