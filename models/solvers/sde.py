"""VSDN-SDE's equation for a batch, and its two solvers: the direct loop, and torchsde as the reference for tests.

Every sequence has its own steps. torchsde has one time for the whole batch, so the step number tau serves as time: dx =
dt_m drift dtau + sqrt(dt_m) R dW(tau) for m <= tau < m + 1. Its Euler step of length 1 is then the direct one, on the
same Brownian path.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.solvers import sde_loop
from models.solvers.sde_loop import Paths, Shape, Weights
from models.solvers.timegrid import TimeGrid

SolverName = Literal["direct", "torchsde"]

PRIOR = (0,)
"""Value of `Shape.driver` for paths of the prior."""


class Frames(NamedTuple):
    """N times at which states of paths are needed, each within a step of one sequence."""

    row: Tensor
    """[N] index of the sequence."""
    step: Tensor
    """[N] index of the step in the sequence's grid."""
    fraction: Tensor
    """[N, 1, 1] fraction of the step before the time, in [0, 1]; 1 for a step of length 0."""
    dt: Tensor
    """[N, 1, 1] length of the step."""
    noise: Tensor
    """[N, S, Z] standard normal noise of the Brownian bridge within the step."""

    def take(self, which: Tensor) -> "Frames":
        """Return the times with these indices."""
        return Frames._make(x[which] for x in self)


class Solution(NamedTuple):
    """S paths of B sequences through some steps."""

    states: Tensor
    """[1 + steps, S, B, Z] states at the start, and at the end of each step."""
    diffusion: Tensor
    """[steps, S, B, Z] diffusion R at the start of each step."""
    outputs: Tensor
    """[steps, G, S * B, 2 Z] outputs of the networks at the start of each step."""

    def read(self, frames: Frames, first: int = 0) -> Tensor:
        """Return the states [N, S, Z] at `frames`, within a step by a Brownian bridge.

        `first` is the index of the paths' first step."""
        row, step, theta = frames.row, frames.step - first, frames.fraction
        spread = (theta * (1 - theta) * frames.dt).sqrt() * self.diffusion[step, :, row]
        # Two indices around a slice: [N, S, Z].
        return torch.lerp(self.states[step, :, row], self.states[step + 1, :, row], theta) + spread * frames.noise


class Equation(NamedTuple):
    """The SDE of B sequences in M steps: networks, step lengths and inputs."""

    pre: Tensor
    """[M, G, B, W] part of the first layer that does not depend on the state, see `sde_loop.run`."""
    weights: Weights
    grid: TimeGrid
    shape: Shape
    solver: SolverName
    informed: Tensor
    """[M, B] whether there is an observation at the end of the step or later. If there is none, the posterior equals
    the prior, and the path KL of the observations ends (eq. 9 of the paper)."""

    def dt(self, steps: slice = slice(None)) -> Tensor:
        """Return the step lengths [steps, 1, B, 1]."""
        return self.grid.dt.T[steps, None, :, None].to(self.pre.dtype)

    def of_prior(self) -> "Equation":
        """Return the equation of the prior with the same networks and steps."""
        w = self.weights
        hidden, biases = (tuple(x[:1] for x in layers) for layers in (w.hidden, w.biases))
        return self._replace(
            pre=self.pre[:, :1], weights=Weights(w.A[:1], hidden, biases, w.V[:1], w.c[:1]),
            shape=self.shape._replace(driver=PRIOR),
        )  # fmt: skip

    def solve(self, x: Tensor, noise: Tensor, steps: slice = slice(None)) -> Solution:
        """Solve for paths from x [S, B, Z], at the start of the first of `steps`, with noise [steps, S, B, Z]."""
        (S, B, _), pre = x.shape, self.pre[steps]
        pre = pre if S == 1 else pre.repeat(1, 1, S, 1)
        dt, informed = self.dt(steps).expand(-1, S, -1, -1).flatten(1, 2), self._informed(steps, S)
        paths = solve(
            x.flatten(0, 1), pre, self.weights, dt, noise.flatten(1, 2), self.shape, self.solver,
            informed,
        )  # fmt: skip
        states, diffusion = (y.unflatten(1, (S, B)) for y in (paths.states, self.shape.diffusion(paths.outputs)))
        return Solution(torch.cat([x[None], states]), diffusion, paths.outputs)

    def divergence(self, paths: Solution, noise: Tensor, steps: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the sums over steps of 1/2 |u|^2 and of u epsilon, [S, B] each, with u = R^-1 (H_Q - H_G) sqrt(dt).

        The mean of the first over paths is KL(Q || P), for Q the distribution of the paths and P that of the prior.
        Minus the sum of both is log dP/dQ of a path."""
        if self.shape.driver == PRIOR:
            return (zero := noise.new_zeros(noise.shape[1:3])), zero
        gap = _gap(self.shape, paths.outputs, self._informed(steps, noise.shape[1]))
        u = self.dt(steps).sqrt() * gap.view_as(noise) / paths.diffusion
        return 0.5 * u.square().sum((0, 3)), (u * noise).sum((0, 3))

    def _informed(self, steps: slice, samples: int) -> Tensor:
        """Return `informed` for all paths, [steps, S * B, 1]."""
        return self.informed[steps, None, :, None].to(self.pre).expand(-1, samples, -1, -1).flatten(1, 2)


def _gap(shape: Shape, u: Tensor, informed: Tensor) -> Tensor:
    """Return the posterior's drift minus the prior's, [M, P, Z], from the networks' outputs u [M, G, P, 2 Z]."""
    prior, posterior = u[..., : u.shape[-1] // 2].tanh().unbind(1)
    return shape.bound * informed * (posterior if 0 in shape.driver else posterior - prior)


def solve(
    x0: Tensor, pre: Tensor, weights: Weights, dt: Tensor, noise: Tensor, shape: Shape, solver: SolverName,
    informed: Tensor | None = None,
) -> Paths:  # fmt: skip
    """Solve for paths with the chosen solver; arguments as of `sde_loop.run`. Both solvers agree up to rounding."""
    if solver == "direct":
        return sde_loop.run(x0, pre, weights, dt, noise, shape, informed)
    import torchsde  # takes a second to load, and no shipped config selects it

    M = dt.shape[0]
    with torch.autocast(x0.device.type, enabled=False):
        ts = torch.arange(M + 1, dtype=x0.dtype, device=x0.device)
        path: Tensor = torchsde.sdeint(
            _Steps(pre, weights, dt, shape, informed), x0, ts, bm=_Increments(noise), method="euler", dt=1.0
        )
        return Paths(path[1:], networks(path[:-1], pre, weights))


def networks(x: Tensor, pre: Tensor, weights: Weights) -> Tensor:
    """Return the outputs u [..., G, P, 2 Z] of all networks at states x [..., P, Z], where `pre` is [..., G, P, W]."""
    y = F.elu(pre + x.unsqueeze(-3) @ weights.A.mT)
    for weight, bias in zip(weights.hidden, weights.biases, strict=True):
        y = F.elu(y @ weight.mT + bias)
    return y @ weights.V.mT + weights.c


class _Steps(nn.Module):
    """Drift and diffusion as functions of the step's number, in torchsde's interface."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, pre: Tensor, weights: Weights, dt: Tensor, shape: Shape, informed: Tensor | None) -> None:
        super().__init__()
        self.pre, self.weights, self.dt, self.shape, self.informed = pre, weights, dt, shape, informed

    def f_and_g(self, tau: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        m = int(tau)
        u = networks(x, self.pre[m], self.weights)[None]
        informed = None if self.informed is None else self.informed[m : m + 1]
        drift = self.shape.target(u, informed)[0] - x
        return self.dt[m] * drift, self.dt[m].sqrt() * self.shape.diffusion(u)[0]


class _Increments:
    """Brownian path whose increment over step m is `noise[m]`, in torchsde's interface."""

    levy_area_approximation = "none"

    def __init__(self, noise: Tensor) -> None:
        self.noise, self.dtype, self.device, self.shape = noise, noise.dtype, noise.device, noise.shape[1:]

    def __call__(self, start: Tensor, end: Tensor) -> Tensor:
        return self.noise[int(start)]
