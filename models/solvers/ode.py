"""Latent trajectories and their density: dz/dt = (v, f_W(s, v)), or the first-order dz/dt = f_W(z).

The solver is our own loop (`flow`) or torchdiffeq, which only this module imports. Both use the same grid, so that
methods with fixed steps agree up to rounding.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from driftwork.config_base import Config
from models.solvers import flow, timegrid
from models.solvers.flow import ACTIVATIONS, TABLEAUS, ActivationName, Weights, trace_matrix
from models.solvers.timegrid import TimeGrid


class SolverConfig(Config):
    backend: Literal["direct", "torchdiffeq"] = "direct"
    """Solver library: our own loop (`direct`) or torchdiffeq."""
    method: Literal["rk4", "midpoint", "dopri5"] = "rk4"
    """Integration method. `rk4` (Kutta's 3/8 rule) and `midpoint` take fixed steps; `dopri5` adapts its steps to the
    whole batch at once."""
    max_step: float = Field(0.1, gt=0)
    """Longest step of a method with fixed steps, in units of `model.time_unit`, which is a second by default."""
    tolerance: float = Field(1e-5, gt=0)
    """Absolute tolerance of a step of `dopri5`, in units of the state, and its relative tolerance, as a fraction."""
    trace: Literal["closed", "autograd"] = "closed"
    """Method for the trace of the vector field's Jacobian: a `closed` form, or `autograd` with a second-order graph and
    one backward pass per component, which serves as a check and is too slow for training."""

    @model_validator(mode="after")
    def _direct_is_fixed_step(self) -> "SolverConfig":
        if self.backend == "direct" and (self.method == "dopri5" or self.trace == "autograd"):
            raise ValueError("method=dopri5 and trace=autograd need backend=torchdiffeq")
        return self


class Path(NamedTuple):
    z: Tensor
    """[N, T, Z] latent states at the frame times."""
    log_q: Tensor
    """[N, T] log density of each state, in nats."""
    evaluations: int
    """Number of evaluations of the vector field per trajectory."""


def grid_of(times: Tensor, max_step: float, multiple: int = 1) -> TimeGrid:
    """Return the grids of trajectories through `times` [N, T] in units of `time_unit`, non-decreasing; padding repeats
    the last.

    Each grid begins at the first time and has an event at every later one. It is computed on the host."""
    # A grid has at least one step for each interval; repeated times are padding and take none.
    later, valid = times[:, 1:] - times[:, :1], times.diff(dim=1) > 0
    return timegrid.build(later, valid, times[:, -1] - times[:, 0], max_step, multiple)


def solve(
    z0: Tensor, log_q0: Tensor, weights: Weights, grid: TimeGrid, solver: SolverConfig, activation: ActivationName
) -> Path:
    """Integrate N trajectories, each through its own times.

    Args:
        z0: [N, Z] initial states. log_q0: [N] their log densities, nats.
        weights: weights of N networks, or of one network for all trajectories.
        grid: N grids, see `grid_of`.
    """
    N, Z = z0.shape
    G = weights.W1.shape[0]
    dt = grid.dt.T.to(z0.dtype)[..., None].view(-1, G, N // G, 1)
    integrate = _direct if solver.backend == "direct" else _torchdiffeq
    with torch.autocast(z0.device.type, enabled=False):  # solver state and trace keep their precision
        z, log_q, evaluations = integrate(
            z0.view(G, N // G, Z), log_q0.view(G, N // G), weights, dt, solver, activation
        )
    row = torch.arange(N, device=z.device)[:, None]
    return Path(
        torch.cat([z0[:, None], z.view(-1, N, Z)[grid.stop, row]], 1),
        torch.cat([log_q0[:, None], log_q.view(-1, N)[grid.stop, row]], 1), evaluations,
    )  # fmt: skip


def _direct(
    z0: Tensor, log_q0: Tensor, weights: Weights, dt: Tensor, solver: SolverConfig, activation: ActivationName
) -> tuple[Tensor, Tensor, int]:
    """Return states [M, G, P, Z] and log densities [M, G, P] at the end of each step, and the evaluations."""
    method: flow.FixedMethod = "rk4" if solver.method == "rk4" else "midpoint"
    states, trace = flow.run(z0, weights, dt, method, activation)
    return states, log_q0 - trace.cumsum(0), len(dt) * len(TABLEAUS[method].b)


def _torchdiffeq(
    z0: Tensor, log_q0: Tensor, weights: Weights, dt: Tensor, solver: SolverConfig, activation: ActivationName
) -> tuple[Tensor, Tensor, int]:
    """Return the results of `_direct`, computed by torchdiffeq.

    Its time is a clock u that advances by 1 per step for every trajectory: dz/du = dt dz/dt."""
    from torchdiffeq import odeint  # an option: the direct path needs no other solver

    M, evaluations = len(dt), 0
    matrix = trace_matrix(weights)

    def slope(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal evaluations
        evaluations += 1
        step = dt[min(max(int(u), 0), M - 1)]
        z = state[0]
        if solver.trace == "closed":
            dz, trace = trace_closed(z, weights, activation, matrix)
        else:
            dz, trace = trace_autograd(z, weights, activation)
        return step * dz, -step[..., 0] * trace

    u = torch.arange(M + 1, dtype=torch.float64, device=z0.device)
    if solver.method == "dopri5":  # it must know where the slope jumps: where a trajectory's step length changes
        changes = ~torch.isclose(dt[1:], dt[:-1], rtol=1e-5, atol=0.0).flatten(1).all(1)
        options: dict[str, Tensor | bool] = {"jump_t": u[1:-1][changes]}
    else:
        options = {"perturb": True}  # a stage at the end of a step belongs to it
    z, log_q = odeint(
        slope, (z0, log_q0), u, method=solver.method, rtol=solver.tolerance, atol=solver.tolerance, options=options
    )
    return z[1:], log_q[1:], evaluations


def field(z: Tensor, weights: Weights, activation: ActivationName) -> tuple[Tensor, Tensor, Tensor]:
    """Return dz/dt [G, P, Z] at z [G, P, Z], and the outputs of both hidden layers [G, P, H]."""
    W1, b1, W2, b2, W3, b3 = weights
    apply_ = ACTIVATIONS[activation].apply_
    a1 = apply_(torch.baddbmm(b1, z, W1.mT))
    a2 = apply_(torch.baddbmm(b2, a1, W2.mT))
    f = torch.baddbmm(b3, a2, W3.mT)
    return torch.cat([z[..., z.shape[-1] - weights.lead :], f], -1), a1, a2


def trace_closed(z: Tensor, weights: Weights, activation: ActivationName, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return dz/dt, and tr(df/dv) [G, P] by the closed formula with `matrix` = `trace_matrix(weights)`."""
    dz, a1, a2 = field(z, weights, activation)
    slope = ACTIVATIONS[activation].slope
    return dz, (torch.bmm(slope(a1), matrix.mT) * slope(a2)).sum(-1)


def trace_autograd(z: Tensor, weights: Weights, activation: ActivationName) -> tuple[Tensor, Tensor]:
    """Return dz/dt, and tr(df/dv) [G, P] by one backward pass per component."""
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        dz = field(z, weights, activation)[0]
        trace = sum(
            torch.autograd.grad(dz[..., d].sum(), z, create_graph=differentiable, retain_graph=True)[0][..., d]
            for d in range(weights.lead, z.shape[-1])
        )
    assert isinstance(trace, Tensor)
    return (dz, trace) if differentiable else (dz.detach(), trace.detach())
