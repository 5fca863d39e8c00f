"""Solvers of VSDN-SDE's paths: the direct loop, and torchsde as the reference it is held against.

Every sequence has its own steps. torchsde knows one time for the whole batch, so it is given the step's number tau as
its time: dx = dt_m drift dtau + sqrt(dt_m) R dW(tau) for m <= tau < m + 1. Its Euler step of length 1 is then the
direct one, on the same Brownian path.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import sde_loop
from models.sde_loop import Paths, Shape, Weights

SolverName = Literal["direct", "torchsde"]


def solve(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, solver: SolverName
) -> Paths:
    """See `sde_loop.run`; both solvers agree to rounding."""
    if solver == "direct":
        return sde_loop.run(x0, pre, weights, dt, noise, shape)
    import torchsde  # takes a second to load and is asked for by no shipped config

    M = dt.shape[0]
    with torch.autocast(x0.device.type, enabled=False):
        ts = torch.arange(M + 1, dtype=x0.dtype, device=x0.device)
        path: Tensor = torchsde.sdeint(
            _Steps(pre, weights, dt, shape), x0, ts, bm=_Increments(noise), method="euler", dt=1.0
        )
        return Paths(path[1:], networks(path[:-1], pre, weights))


def networks(x: Tensor, pre: Tensor, weights: Weights) -> Tensor:
    """Outputs u [..., G, P, 2 Z] of all networks at states x [..., P, Z], where `pre` is [..., G, P, W]."""
    y = F.elu(pre + x.unsqueeze(-3) @ weights.A.mT)
    for weight, bias in zip(weights.hidden, weights.biases, strict=True):
        y = F.elu(y @ weight.mT + bias)
    return y @ weights.V.mT + weights.c


class _Steps(nn.Module):
    """Drift and diffusion as functions of the step's number."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, pre: Tensor, weights: Weights, dt: Tensor, shape: Shape) -> None:
        super().__init__()
        self.pre, self.weights, self.dt, self.shape = pre, weights, dt, shape

    def f_and_g(self, tau: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        m = int(tau)
        u = networks(x, self.pre[m], self.weights)[None]
        drift = self.shape.target(u, self.shape.driver)[0] - x
        return self.dt[m] * drift, self.dt[m].sqrt() * self.shape.diffusion(u)[0]


class _Increments:
    """The Brownian path whose increment over step m is `noise[m]`."""

    levy_area_approximation = "none"

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.dtype, self.device, self.shape = noise, noise.dtype, noise.device, noise.shape[1:]

    def __call__(self, start: Tensor, end: Tensor) -> Tensor:
        return self.noise[int(start)]
