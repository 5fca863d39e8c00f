"""Dropout of recurrent states by keyed masks, in training only."""

import pytest
import torch

from models.gru_ode import Events, GruOde
from models.parts.likelihoods import Marginal
from tests.models.conftest import CONFIGS, D, make_batch, small

P = 0.3


def nets(hidden=6):
    """Return two networks of equal weights, without and with dropout."""
    for dropout in (0.0, P):
        torch.manual_seed(0)
        yield GruOde(Marginal(torch.zeros(D), 1.0), hidden, 2, 0.2, 1.0, dropout=dropout).double()


def test_dropped_component_is_zero_at_all_times():
    """All other components are multiplied by 1 / (1 - p) in training; evaluation changes none."""
    batch = make_batch()
    without, hiding = (net(batch, Events.of(batch)) for net in nets())
    for plain, read in ((without.before, hiding.before), (without.after, hiding.after)):
        ratio = read / plain.where(plain != 0, 1.0)
        hidden = (read == 0).all(0)
        torch.testing.assert_close(
            ratio[:, ~hidden], torch.full_like(ratio[:, ~hidden], 1 / (1 - P)) * (plain != 0)[:, ~hidden]
        )
        assert 0 < hidden.sum() < hidden.numel()
    net = list(nets())[1].eval()
    assert torch.equal(net(batch, Events.of(batch)).after, without.after)


def test_components_drop_with_the_given_probability():
    """The frequency over 2 x 40 x 500 draws is within 4 standard errors. Passes and sequences have their own masks."""
    net, n = list(nets(500))[1], 2 * 40 * 500
    mask = net._dropout_mask(torch.arange(40))
    assert float((mask == 0).double().mean()) == pytest.approx(P, abs=4 * (P * (1 - P) / n) ** 0.5)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - P)])
    assert (mask[0] != mask[1]).any()
    assert (mask[:, 0] != mask[:, 1]).any()


@pytest.mark.parametrize("name", ["vsdn_vae", "vsdn_sde", "gru_ode", "bi_gru_ode"])
def test_dropout_masks_depend_on_the_sequence_alone(name, monkeypatch):
    """Loss and gradient of a sequence are equal alone and in a batch, and no global generator is used."""
    monkeypatch.setitem(CONFIGS, name, CONFIGS[name].model_copy(update={"dropout": P}))
    model, batch = small(name), make_batch()
    before = torch.get_rng_state()
    together = model(batch, 0.7).loss
    assert torch.equal(torch.get_rng_state(), before)
    alone = torch.cat([model(batch.rows(slice(b, b + 1)), 0.7).loss for b in range(3)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    other = model(batch._replace(seed=batch.seed + 1), 0.7).loss
    assert (other - together).abs().min() > 1e-6
