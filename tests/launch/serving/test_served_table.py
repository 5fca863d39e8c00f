"""A served model of a table: null for a missing value, and a prediction for every channel."""

import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from launch.serving.served_model import Description, Served, TableSettings
from tests.models.tables.making import CONFIGS, FORECASTERS, MARGINAL, make_batch


def served(name):
    torch.manual_seed(1)
    description = Description(
        model={**CONFIGS, **FORECASTERS}[name], likelihood="gaussian", mean=tuple(MARGINAL.mean.tolist()),
        scale=tuple(MARGINAL.scale.tolist()), sequences=10, binary=False, units="value", interval=0.3, length=9,
        samples=2, table=TableSettings(**MARGINAL.table._asdict()),
    )  # fmt: skip
    assert Description.model_validate_json(description.model_dump_json()) == description
    return Served(description, description.build().state_dict())


def request():
    """Return a batch of one sequence that observes all that is present, and the request with the same entries."""
    batch = make_batch(B=1)
    batch = batch.changed(observed=batch.present, values=batch.values.float(), static=torch.zeros(1, 2))
    values = torch.where(batch.observed, batch.values, torch.nan)[0].tolist()
    missing = [[None if number != number else number for number in row] for row in values]
    return batch, {"times": batch.times[0].tolist(), "values": missing, "ask": batch.times[0].tolist()}


@pytest.mark.parametrize("name", ["gru_ode", "vsdn_vae", "bi_gru_ode", "ode2vae"])
def test_served_table_matches_the_model(name):
    """Given entries are returned as they are; the prediction of other entries does not depend on further times."""
    model, (batch, row) = served(name), request()
    found = torch.tensor(model.predict(pd.DataFrame([row]))[0]["values"])
    asked = batch._replace(seed=torch.tensor([0]))
    with torch.inference_mode():
        if name == "ode2vae":
            torch.testing.assert_close(found, model.model.forecast(asked, 2).mean[0], rtol=1e-5, atol=1e-5)
            return
        expected = torch.where(batch.observed, batch.values, model.model.interpolate(asked, 2).mean)[0]
    assert torch.equal(found, expected)
    times = sorted({*row["ask"], *(0.01 + 0.9 * t for t in row["ask"])})
    more = torch.tensor(model.predict(pd.DataFrame([{**row, "ask": times}]))[0]["values"])
    assert torch.equal(more[[times.index(t) for t in row["ask"]]], found)


def test_bad_request_of_a_table_is_reported():
    model, (_, row) = served("gru_ode"), request()
    for change, error in (
        ({"values": [[float("inf"), 1, 1, 1], *row["values"][1:]]}, "values holds NaN or an infinite number"),
        ({"times": [None, *row["times"][1:]]}, "times holds NaN"),
    ):
        with pytest.raises(MlflowException, match=error):
            model.predict(pd.DataFrame([{**row, **change}]))
