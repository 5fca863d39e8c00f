"""Stochastic problems with closed forms: Ornstein-Uhlenbeck processes, their path KL, a linear-Gaussian model."""

import math
from typing import NamedTuple

import torch
from scipy.integrate import quad
from torch import Tensor

from models.solvers.sde_loop import Weights

LINEAR = 1e4
"""A bound that makes bound * tanh(u / bound) = u to 1e-8 relative, for |u| of order 1."""
_OFFSET = 50.0  # keeps ELU units in their linear part


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zero_networks(Z, G=1):
    """Return networks with outputs 0: drift -x, and diffusion midway between its bounds."""
    zeros = [torch.zeros(shape, dtype=torch.float64) for shape in ((G, 1, Z), (G, 2 * Z, 1), (G, 1, 2 * Z))]
    return Weights(zeros[0], (), (), *zeros[1:])


def linear_networks(rates, levels, spread=0.0):
    """Return one-dimensional networks with drift rate (level - x) for each (rate, level), if `Shape.bound` is LINEAR,
    and diffusion low + (high - low) sigmoid(spread). Their input `pre` must be `_OFFSET`, see `linear_pre`."""
    slopes = [1 - rate for rate in rates]  # target = drift + x
    one = torch.ones(len(rates), 1, 1, dtype=torch.float64)
    V = torch.tensor([[[a / LINEAR], [0.0]] for a in slopes], dtype=torch.float64)
    c = [[[(r * m - _OFFSET * a) / LINEAR, spread]] for a, r, m in zip(slopes, rates, levels, strict=True)]
    return Weights(one, (), (), V, torch.tensor(c, dtype=torch.float64))


def linear_pre(M, G, P):
    return torch.full((M, G, P, 1), _OFFSET, dtype=torch.float64)


def ou_mean(t, x0, rate=1.0, level=0.0):
    return level + (x0 - level) * math.exp(-rate * t)


def ou_covariance(s, t, R, rate=1.0):
    return R**2 / (2 * rate) * (math.exp(-rate * abs(t - s)) - math.exp(-rate * (s + t)))


def ou_path_kl(T, x0, R, posterior, prior):
    """Return the KL of two OU processes on [0, T], each given as (rate, level), from closed moments of the first."""
    (q, m), (p, n) = posterior, prior
    slope, constant = p - q, q * m - p * n  # H_Q - H_P = slope x + constant

    def density(t):
        square = (slope * ou_mean(t, x0, q, m) + constant) ** 2 + slope**2 * ou_covariance(t, t, R, q)
        return 0.5 * square / R**2

    return quad(density, 0, T, epsabs=1e-13)[0]


def sigma_points(M):
    """Return 2 M + 1 noise paths [M, P, 1] and weights [P], over which the weighted mean of a quadratic function of M
    standard normal variables equals its expectation."""
    eye = torch.eye(M, dtype=torch.float64)
    points = torch.cat([torch.zeros(M, 1, dtype=torch.float64), eye, -eye], 1)[..., None]
    weights = torch.full((2 * M + 1,), 0.5, dtype=torch.float64)
    weights[0] = 1.0 - M
    return points, weights


class Kalman(NamedTuple):
    mean: Tensor
    """[T, Z] E[x_n | observed rows before n]."""
    covariance: Tensor
    """[T, Z, Z]"""
    log_likelihood: float
    """log P(observed rows of y)."""


def kalman(x0: Tensor, dt: Tensor, R: float, y: Tensor, observed: Tensor, C: Tensor, d: Tensor, std: Tensor) -> Kalman:
    """Filter x' = (1 - dt) x + sqrt(dt) R epsilon, y = C x + d + std eta.

    Args:
        x0: [Z]. dt: [T], the step that leads to each row. y: [T, D]. observed: bool [T].
        C: [D, Z]. d, std: [D].
    """
    mean, P, total = x0.clone(), torch.zeros(len(x0), len(x0), dtype=x0.dtype), 0.0
    means, covariances = [], []
    for n in range(len(y)):
        mean = (1 - dt[n]) * mean
        P = (1 - dt[n]) ** 2 * P + dt[n] * R**2 * torch.eye(len(x0), dtype=x0.dtype)
        means.append(mean)
        covariances.append(P)
        if observed[n]:
            S = C @ P @ C.T + torch.diag(std**2)
            gap = y[n] - C @ mean - d
            total += float(torch.distributions.MultivariateNormal(torch.zeros_like(gap), S).log_prob(gap))
            gain = P @ C.T @ torch.linalg.inv(S)
            mean, P = mean + gain @ gap, P - gain @ C @ P
    return Kalman(torch.stack(means), torch.stack(covariances), total)


def kalman_log_likelihood(*problem) -> float:
    """Return log P(observed rows of y), by the Kalman filter."""
    return kalman(*problem).log_likelihood


def dense_log_likelihood(
    x0: Tensor, dt: Tensor, R: float, y: Tensor, observed: Tensor, C: Tensor, d: Tensor, std: Tensor
) -> float:
    """Return log P(observed rows of y), from the joint Gaussian of all observed rows."""
    T, Z = len(y), len(x0)
    stay = torch.cumprod(1 - dt, 0)
    factor = torch.diag(R * dt.sqrt())  # contribution of increment k to x_n
    for n in range(1, T):
        factor[n, :n] = (1 - dt[n]) * factor[n - 1, :n]
    cov_x = torch.kron(factor @ factor.T, torch.eye(Z, dtype=x0.dtype))
    out = torch.kron(torch.eye(T, dtype=x0.dtype), C)
    cov = out @ cov_x @ out.T + torch.diag((std**2).repeat(T))
    mean = (stay[:, None] * x0) @ C.T + d
    rows = observed.repeat_interleave(len(d)).nonzero()[:, 0]
    joint = torch.distributions.MultivariateNormal(mean.flatten()[rows], cov[rows][:, rows])
    return float(joint.log_prob(y.flatten()[rows]))
