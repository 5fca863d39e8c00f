"""The path KL of VSDN-SDE against a computation step by step: it ends at the last observation."""

import pytest
import torch

from models.grids import clock_of
from models.gru_ode import Events
from models.solvers import sde
from tests.models.conftest import CONFIGS, make_batch, small

S = 2


def by_hand(model, batch, b):
    """Return KL, martingale and last state of the S paths of sequence b, in plain Euler steps."""
    c = model.config
    equation, _ = model._equation(batch, Events.of(batch), model.posterior)
    noise, grid = model._noise(batch.seed, equation, S), equation.grid
    clock = clock_of(batch, 0, c.time_unit)[b]
    observed = clock[batch.observed[b]]
    last = float(observed[-1]) if len(observed) else -1.0
    low, high = c.diffusion
    kl, martingale, x = torch.zeros(S), torch.zeros(S), model.x0.expand(S, -1)
    for m in range(len(noise)):
        dt = grid.dt[b, m]
        prior, posterior = (
            c.bound * u[:, : c.latent].tanh()
            for u in sde.networks(x, equation.pre[m, :, b, None].expand(-1, S, -1), equation.weights)
        )
        spread = sde.networks(x, equation.pre[m, :, b, None].expand(-1, S, -1), equation.weights)[0, :, c.latent :]
        R = low + (high - low) * spread.sigmoid()
        if c.name == "vsdn_sde_res":
            posterior = prior + posterior
        target = prior
        if float(grid.end[b, m]) <= last + 1e-9:
            target = posterior
            u = (posterior - prior) / R * dt.sqrt()
            kl, martingale = kl + 0.5 * u.square().sum(1), martingale + (u * noise[m, :, b]).sum(1)
        x = x + dt * (target - x) + dt.sqrt() * R * noise[m, :, b]
    return kl, martingale, x


@pytest.mark.parametrize("substeps", [1, 3])
@pytest.mark.parametrize("name", ["vsdn_sde", "vsdn_sde_res"])
def test_kl_ends_at_the_last_observation(name, substeps, monkeypatch):
    """One sequence is observed to its end, one up to its fifth frame, and one never."""
    monkeypatch.setitem(CONFIGS, name, CONFIGS[name].model_copy(update={"substeps": substeps}))
    model, batch = small(name), make_batch(irregular=True)
    observed = batch.observed.clone()
    observed[0, -1], observed[1, 5:], observed[2] = True, False, False
    batch = batch._replace(observed=observed)
    with torch.no_grad():
        latent = model._latent(batch, model.posterior, S)
        for b in range(3):
            kl, martingale, end = by_hand(model, batch, b)
            torch.testing.assert_close(latent.kl[:, b], kl.double(), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(latent.martingale[:, b], martingale.double(), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(latent.x[:, b, -1], end, rtol=1e-9, atol=1e-12)
        assert torch.equal(latent.kl[:, 2], torch.zeros(S, dtype=torch.float64))
        assert (latent.kl[:, :2] > 0).all()


@pytest.mark.parametrize("name", ["vsdn_sde", "vsdn_sde_res"])
def test_posterior_without_observations_is_prior(name):
    """Without any observation, paths of posterior and prior are equal to the last bit."""
    model, batch = small(name), make_batch()
    batch = batch._replace(observed=torch.zeros_like(batch.observed))
    with torch.no_grad():
        prior, posterior = (model._latent(batch, driver, S).x for driver in ((0,), model.posterior))
    torch.testing.assert_close(posterior, prior, rtol=0, atol=1e-12)
