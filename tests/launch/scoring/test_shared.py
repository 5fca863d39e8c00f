"""The three tasks of a batch share its recurrent states."""

import pytest
import torch

from launch.scoring.draws import Draws
from launch.scoring.scores import Scoring
from models.parts.once import once, shared
from models.solvers import recurrence
from tests.models.conftest import make_batch, small

SCORING = Scoring(
    binary=True, bernoulli=True, length=14, draws=Draws(samples=3, particles=4, rollout=False), horizons=()
)


@pytest.fixture
def runs(monkeypatch):
    """Count the runs of the recurrence."""
    found, run = [], recurrence.run

    def counted(*arguments):
        found.append(arguments)
        return run(*arguments)

    monkeypatch.setattr(recurrence, "run", counted)
    return found


@pytest.mark.parametrize(
    ("name", "apart", "together"),
    [("gru_ode", 3, 1), ("ode_rnn", 3, 1), ("vsdn_vae", 3, 1), ("vsdn_sde", 4, 2), ("vsdn_sde_res", 4, 2)],
)
def test_tasks_share_states_to_the_last_bit(runs, name, apart, together):
    """VSDN-SDE's filter works in double precision, on states of its own."""
    model, batch = small(name).float().eval(), make_batch(irregular=True)
    batch = batch._replace(values=batch.values.float())
    with torch.inference_mode():
        alone = {
            **SCORING.density(model, batch, "25", whole=True),
            **SCORING._prediction(SCORING.draws.predictive(model, batch), batch, "25"),
            **SCORING._interpolation(model.interpolate(batch, 3), batch, "25"),
        }
        assert len(runs) == apart
        found = SCORING.model(model, batch, "25")
    assert len(runs) == apart + together
    assert found.keys() == alone.keys()
    for task, columns in alone.items():
        for metric, (x, w) in columns["25"].items():
            assert torch.equal(found[task]["25"][metric].x, x), (task, metric)
            assert torch.equal(found[task]["25"][metric].w, w), (task, metric)


def test_batches_do_not_share():
    """States are computed anew for equal values in another tensor, and always outside `shared`."""
    calls = []
    squared = once(lambda x: calls.append(x) or x * x)
    with shared():
        x = torch.ones(2)
        assert squared(x) is squared(x)
        assert squared(x) is not squared(torch.ones(2))
        assert squared(torch.ones(2)) is not squared(torch.ones(2))
    squared(x)
    squared(x)
    assert len(calls) == 6
