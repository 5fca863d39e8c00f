"""Names of models in the papers, and published figures for comparison with ours."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from launch.scoring.side_by_side import Column

_NAMES = {
    "ode_rnn": "ODE-RNN", "gru_ode": "GRU-ODE", "bi_gru_ode": "GRU-ODE, both directions",
    "vsdn_vae": "VSDN-VAE", "vsdn_vae_res": "VSDN-VAE (res)", "vsdn_sde": "VSDN-SDE", "vsdn_sde_res": "VSDN-SDE (res)",
    "neural_ode": "Neural ODE", "ode2vae": "ODE2VAE",
}  # fmt: skip

_VSDN = "Liu et al. (2020), table {}: other pieces or speakers, and in prediction most likely another protocol"
_ODE2VAE = "Yildiz et al. (2019), of other sequences than ours"
_RATES = tuple((task, rate) for task in ("density", "prediction", "interpolation") for rate in ("25", "50"))


class Published(NamedTuple):
    paper: str
    """Reference, with the differences between its figures and ours."""
    figures: dict[str, tuple[str, ...]]
    """Printed figures by model: NLL, prediction and interpolation at 25 and 50 %, or the MSE of a forecast."""


_FIGURES = {
    "lakh": [
        Published(f"{_VSDN.format(1)}, accuracy at 0.5", {
            "ODE-RNN": ("10.67", "8.76", "93.32", "92.72", "40.63", "49.53"),
            "GRU-ODE": ("10.18", "8.35", "91.70", "91.35", "41.33", "49.98"),
            "VSDN-VAE": ("0.002", "0.002", "98.80", "98.80", "54.96", "74.06"),
            "VSDN-VAE (res)": ("0.007", "0.004", "98.71", "98.79", "51.27", "73.91"),
            "VSDN-SDE": ("0.003", "0.001", "98.79", "98.80", "54.69", "74.08"),
            "VSDN-SDE (res)": ("0.001", "0.001", "98.80", "98.80", "54.82", "74.14"),
        }),
    ],
    "timit": [
        Published(_VSDN.format(2), {
            "ODE-RNN": ("-0.499", "-0.500", "0.1166", "0.1165", "0.1166", "0.1165"),
            "GRU-ODE": ("-0.500", "-0.500", "0.1154", "0.1157", "0.1166", "0.1165"),
            "VSDN-VAE": ("-0.655", "-0.655", "0.0518", "0.0508", "0.1044", "0.0902"),
            "VSDN-VAE (res)": ("-0.673", "-0.667", "0.0341", "0.0404", "0.1030", "0.0878"),
            "VSDN-SDE": ("-0.669", "-0.672", "0.0379", "0.0351", "0.1033", "0.0868"),
            "VSDN-SDE (res)": ("-0.664", "-0.667", "0.0432", "0.0405", "0.1039", "0.0876"),
        }),
    ],
    "mocap": [
        Published(_ODE2VAE, {"Neural ODE": ("22.49",), "ODE2VAE": ("10.06",), "ODE2VAE-KL": ("8.09±1.95",)}),
        Published("Li et al. (2020)", {
            "latent ODE, context vector": ("5.98",), "latent SDE": ("4.03±0.20",),
        }),
    ],
    "rotating_mnist": [Published(_ODE2VAE, {"ODE2VAE": ("0.0194",), "ODE2VAE-KL": ("0.0188",)})],
}  # fmt: skip
"""Published figures by the name of the data set in `driftwork prepare`."""


def of(dataset: str) -> list[Published]:
    return _FIGURES.get(dataset, [])


def printed(figures: tuple[str, ...], columns: list[Column]) -> list[str]:
    """Return a paper's figures for our columns; empty if it has none. A forecast has the longest horizon."""
    if len(figures) == 1:
        longest = [column for column in columns if column.task == "forecast"][-1:]
        return [figures[0] if column in longest else "" for column in columns]
    known = dict(zip(_RATES, figures, strict=True))
    return [known.get((column.task, column.name), "") for column in columns]


def label(config: Mapping[str, Any]) -> str:
    """Return the papers' name of the model of a flat config."""
    name = config["model.name"]
    if name not in ("neural_ode", "ode2vae"):
        return _NAMES.get(name, name)
    plain, penalised = config["model.variance"] == "none", config["model.gamma"] > 0
    if name == "neural_ode" and plain and not penalised:
        return _NAMES[name]
    parts = ["ODE2VAE-KL" if penalised else "ODE2VAE"]
    return ", ".join(parts + ["first order"] * (name == "neural_ode") + ["plain f"] * plain)


def order(label: str) -> tuple[int, str]:
    """Return the sort key of a model: the papers' order, with variants after their model."""
    names = list(_NAMES.values())
    exact = next((i for i, name in enumerate(names) if name == label), None)
    return (exact if exact is not None else len(names), label)
