"""Imputed and forecast tables against the model's predictive distribution, computed directly."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import driftwork
from driftwork.config_base import load
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.runs.weights import BEST
from launch.scoring.draws import Draws
from models.batch import Batch
from pipeline.observe import key_seed
from pipeline.readers.tables.series import key
from pipeline.shards.manifest import read_manifest
from tests.launch.tables.own import prepared
from tests.pipeline.tables.making import ward, write
from tests.places import ROOT

pytestmark = pytest.mark.usefixtures("in_process")
SMALL = ["model.hidden=8", "model.latent=4", "model.width=8", "tracking.uri=null"]
HOURS = 3600.0


@pytest.fixture(scope="module")
def rows():
    """Provide rows of patients with an age, a ward, and a rhythm that is 0 or 1."""
    random = np.random.default_rng(7)
    made = ward(6, patients=10)
    for row in made:
        number = int(row["series"][2:])
        row |= {"age": 40 + number, "ward": "AB"[number % 2]}
        row["rhythm"] = None if random.integers(3) == 0 else int(random.integers(2))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory, rows, in_process):
    place = tmp_path_factory.mktemp("real")
    own = [
        "dataset.layout=wide",
        "dataset.time_unit=h",
        "dataset.static_numbers=[age]",
        "dataset.static_categories=[ward]",
    ]
    return prepared(place, write(place / "ward.csv", rows), *own)


def untrained(place, data, name):
    config = load(RunConfig, ROOT / f"configs/train/{name}_table.yaml", [f"data={data}", f"out={place}", *SMALL])
    run_folder.create(config)
    manifest = read_manifest(data)
    save_file(run_folder.model_for(config, manifest).state_dict(), place / BEST)
    return driftwork.load(place)


def directly(run, rows, series, query=()):
    """Return the predictive of a series by a batch made by hand, and its times in hours."""
    config = run_folder.config_of(run.folder)
    manifest = read_manifest(config.data)
    table = manifest.spec.table
    mine = sorted((row for row in rows if row["series"] == series), key=lambda row: row["time"])
    times = np.array([row["time"] for row in mine] + list(query))
    values = np.array([[row[name] for name in table.channels] for row in mine], np.float64)
    values = np.concatenate([values, np.full((len(query), values.shape[1]), np.nan)])
    mask = torch.from_numpy(~np.isnan(values))[None]
    age, stats = mine[0]["age"], manifest.stats
    static = [(age - stats.static_mean[0]) / stats.static_scale[0], *(float(mine[0]["ward"] == name) for name in "AB")]
    seconds, filled = (times - times[0]) * HOURS, torch.from_numpy(np.nan_to_num(values)).float()
    seed = torch.tensor([key_seed(0, "noise", 0, f"{key(series)}-0000")])
    batch = Batch(
        torch.from_numpy(seconds)[None], filled[None], mask, mask, torch.ones(1), seed, (series,), (),
        torch.tensor([static]),
    )  # fmt: skip
    model = run_folder.model_for(config, manifest).eval()
    draws = Draws.of(config.evaluate)
    with torch.inference_mode():
        predictive = draws.predictive(model, batch) if len(query) else model.interpolate(batch, draws.samples)
        low, high = (predictive.mixture().quantile(level)[0].numpy() for level in (0.05, 0.95))
        return times, predictive.mean[0].numpy(), predictive.deviation[0].numpy(), low, high


def check(back, times, mean, deviation, low, high, rows):
    """Compare rows of a table, by time, with a predictive distribution by frame; padding of a batch may change the
    rounding."""
    near = {"rtol": 2e-5, "atol": 2e-5}
    for _, row in back.iterrows():
        (frame,) = np.flatnonzero(times == row["time"])
        for channel, name in enumerate(("heat", "pulse", "rhythm")):
            if rows is not None and rows[row["time"]][name] is not None:
                assert row[name] == rows[row["time"]][name]
                continue
            assert np.isclose(row[name], mean[frame, channel], **near)
            if name != "rhythm":
                own = [row[f"{name}_{what}"] for what in ("deviation", "quantile_0.05", "quantile_0.95")]
                assert np.allclose(own, [x[frame, channel] for x in (deviation, low, high)], **near)


@pytest.mark.parametrize("name", ["gru_ode", "vsdn_vae", "vsdn_sde", "bi_gru_ode"])
def test_imputation_is_the_predictive_of_the_model(tmp_path, rows, data, name):
    """The table also has a binary channel, which has only a probability, and static columns."""
    run = untrained(tmp_path / "run", data, name)
    back = run.impute(pd.DataFrame(rows))
    assert [column for column in back if column.startswith("rhythm")] == ["rhythm"]
    for series in ("p 0", "p 7"):
        mine = {row["time"]: row for row in rows if row["series"] == series}
        check(back[back["series"] == series], *directly(run, rows, series), mine)


@pytest.mark.parametrize("name", ["gru_ode", "vsdn_vae", "vsdn_sde"])
def test_forecast_is_the_predictive_of_the_model(tmp_path, rows, data, name):
    run = untrained(tmp_path / "run", data, name)
    back = run.forecast(pd.DataFrame(rows), until="+3", every=1.5)
    for series in ("p 0", "p 7"):
        last = max(row["time"] for row in rows if row["series"] == series)
        mine = back[back["series"] == series]
        assert mine["time"].tolist() == [last + 1.5, last + 3]
        assert mine["ward"].tolist() == ["AB"[int(series[2:]) % 2]] * 2
        check(mine, *directly(run, rows, series, query=(last + 1.5, last + 3)), None)
