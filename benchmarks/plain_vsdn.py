"""The usual implementation of VSDN-VAE, for comparison: a loop over frames that calls every network at each of them.

It is differentiated by autograd, takes the parameters of our model and computes the same loss."""

import torch
from torch import Tensor

from models.base import Objective, Terms
from models.batch import Batch
from models.gru_ode import GruOde
from models.parts.noise import keyed_normal
from models.vsdn import VsdnVae


def objective(model: VsdnVae, batch: Batch, kl_weight: float) -> Objective:
    """Return the result of `model(batch, kl_weight)`, on a regular grid of one Euler step per frame."""
    B, T, _ = batch.values.shape
    h, _ = states(model.gru_ode, batch, 0)
    unseen, seen = states(model.gru_ode, batch, 1)
    noise, order = keyed_normal(batch.seed, T, model.latent), batch.observed.cumsum(1) - 1
    past, taken_in, ahead = model.decoder.past(batch), model._around(batch, own=True), model._around(batch, own=False)
    log_likelihood, smoothing, divergence, paid = (batch.values.new_zeros(B) for _ in range(4))
    for t in range(T):
        shown = batch.observed[:, t].to(h[t].dtype)
        eps = noise[torch.arange(B), order[:, t].clamp_min(0)]  # noise is keyed by the number of the observation
        prior = model._prior(h[t], past[:, t])
        posterior = model._posterior(prior, h[t], seen[t], taken_in[:, t])
        blind = model._posterior(prior, h[t], unseen[t], ahead[:, t])
        kl = posterior.kl(prior)
        for total, x in (
            (log_likelihood, log_prob(model, posterior.sample(eps), h[t], past[:, t], batch.values[:, t])),
            (smoothing, log_prob(model, blind.sample(eps), h[t], past[:, t], batch.values[:, t])),
            (divergence, kl),
            (paid, kl.clamp_min(model.free_nats)),
        ):
            total += shown * x
    loss = torch.lerp(kl_weight * paid - log_likelihood, -smoothing, model.held_out_fraction)
    return Objective(loss, Terms(log_likelihood, divergence, batch.observed.sum(1)))


def log_prob(model: VsdnVae, x: Tensor, h: Tensor, past: Tensor, y: Tensor) -> Tensor:
    return model.decoder.log_prob(torch.cat([x, h], -1), past, y)


def states(net: GruOde, batch: Batch, direction: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the states just before and just after each frame, T tensors [B, H] each."""
    B, T, _ = batch.values.shape
    H, d = net.hidden, direction
    rows = slice(3 * H * d, 3 * H * (d + 1))
    linear = net.project[1]
    h = batch.values.new_zeros(B, H)
    before: list[Tensor] = [h] * T
    after: list[Tensor] = [h] * T
    frames = list(range(T))[:: -1 if direction else 1]
    for i, t in enumerate(frames):
        if i > 0:
            dt = (batch.times[:, t] - batch.times[:, frames[i - 1]]).abs()[:, None].to(h.dtype) / net.time_unit
            z, r = torch.sigmoid(h @ net.flow_gates[d].T + net.flow_gates_bias[d]).split(H, 1)
            g = torch.tanh((r * h) @ net.flow_candidate[d].T + net.flow_candidate_bias[d])
            h = h + dt * (1 - z) * (g - h)
        before[t] = h
        a = (net.project[0](batch.values[:, t]) @ linear.weight[rows].T + linear.bias[rows]).split(H, 1)
        u = (h @ net.update[d].T + net.update_bias[d]).split(H, 1)
        r, z = torch.sigmoid(a[0] + u[0]), torch.sigmoid(a[1] + u[1])
        n = torch.tanh(a[2] + r * u[2])
        h = torch.where(batch.observed[:, t, None], (1 - z) * n + z * h, h)
        after[t] = h
    return before, after
