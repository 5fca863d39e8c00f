"""A model of entries equals the model of frames if all channels of a frame are observed together.

The weights of a table's additional inputs, the masks and the gaps of single channels, are 0, and the time since the
last frame is that of any channel.
"""

import pytest
import torch

from models.base import Smoother, StateSpace
from models.parts.likelihoods import Marginal, TableForm
from models.registry import build_model
from tests.models.tables.making import CONFIGS, D, T, make_batch

NAMES = [name for name in CONFIGS if name != "ode_rnn"] + ["ode_rnn"]
FRAMES = Marginal(torch.zeros(D), 1.0)
ENTRIES = Marginal(torch.zeros(D), torch.ones(D), table=TableForm(("a", "b", "c", "d"), (False,) * D, 0))
"""Moments of a table. With mean 0, both models read the value 0 for a channel that was never observed."""


def of_channels(x, layout):
    """Return weights [..., n] with columns for entries. `layout` describes the columns of `x` from the end:

    - `value`: D columns, which stay and are followed by D zeros for the flags;
    - `gap`: one column, which stays and is followed by D - 1 zeros;
    - `line`: D columns, which stay.
    """
    parts, end = [], x.shape[-1]
    for kind in reversed(layout):
        width = 1 if kind == "gap" else D
        zeros = {"value": D, "gap": D - 1, "line": 0}[kind]
        parts += [x.new_zeros(*x.shape[:-1], zeros), x[..., end - width : end]]
        end -= width
    return torch.cat([x[..., :end], *reversed(parts)], -1)


def transferred(key, x, config):
    """Return a weight of the model of frames as one of the model of entries."""
    gaps, R = config.see_gaps, 1 if config.name in ("gru_ode", "ode_rnn") else 2
    past = (["value"] * config.see_last + ["gap"] * gaps) * config.from_neighbours
    if key == "gru_ode.project.1.weight":
        x = x.view(R, -1, D)
        return torch.cat([x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    if key == "gru_ode.project.1.bias":
        return x.view(R, 1, -1)
    if key.endswith(("scale", "log_std")):
        return x.expand(D) if x.ndim == 0 else x
    if key == "decoder.linear.weight":
        return of_channels(x, ["value"] * config.see_last + ["gap"] * gaps)
    if key == "features.0.weight" and config.name == "bi_gru_ode":
        return of_channels(x, ["gap"] * gaps + [*past, "value", "line"] * config.from_neighbours)
    if key in ("features.0.weight", "prior_net.0.weight"):
        return of_channels(x, past)
    if key == "posterior_net.0.weight":
        lines = ["line", "line"] * config.from_neighbours
        return of_channels(x, ["value"] * config.see_next + ["gap", "gap"] * gaps + lines)
    if key == "drifts.read_all.weight":
        return of_channels(x, ["value"] * config.see_next + ["gap"] * gaps)
    return x


@pytest.mark.parametrize("name", NAMES)
def test_entries_observed_together_are_frames(name):
    """States differ by rounding alone: some hundred operations on numbers of order 1."""
    torch.manual_seed(1)
    config = CONFIGS[name]
    of_frames, of_entries = (build_model(config, "gaussian", form).double().eval() for form in (FRAMES, ENTRIES))
    of_entries.load_state_dict({key: transferred(key, x, config) for key, x in of_frames.state_dict().items()})
    entries = make_batch(together=True)._replace(static=torch.zeros(3, 0, dtype=torch.float64))
    frames = entries._replace(present=entries.present[..., 0], observed=entries.observed[..., 0])
    assert 3 < int(frames.observed.sum()) < 3 * T
    with torch.no_grad():
        for answer in answers(of_frames):
            torch.testing.assert_close(
                answer(of_entries, entries), answer(of_frames, frames), rtol=1e-10, atol=1e-10, msg=name
            )


def answers(model):
    """Yield functions from (model, batch) to its answers."""
    yield lambda model, batch: model.interpolate(batch, 3).mean
    yield lambda model, batch: model.interpolate(batch, 3).deviation
    if isinstance(model, Smoother):
        yield lambda model, batch: model.pseudo_likelihood(batch).log_likelihood
        return
    yield lambda model, batch: model.predict(batch, 3).mean
    yield lambda model, batch: model.density(batch, 3)[0].log_likelihood
    yield lambda model, batch: model.density(batch, 3)[1]
    if isinstance(model, StateSpace):
        yield lambda model, batch: model.log_evidence(batch, 4)
