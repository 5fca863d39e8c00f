import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from models.parts.noise import keyed_normal
from models.solvers import sde, sde_loop
from models.solvers.sde_loop import Shape, Weights
from tests import rounding
from tests.models.problems import (
    LINEAR,
    linear_networks,
    linear_pre,
    normal,
    ou_covariance,
    ou_mean,
    ou_path_kl,
    sigma_points,
    zero_networks,
)
from tests.models.solvers import forms

BOUND, LOW, HIGH = 2.0, 0.3, 1.1


def formula(x, pre, weights, dt, noise, shape, informed=None):
    """Compute the docstring's formulas, network by network, differentiable by autograd."""
    Z, states, outputs = x.shape[1], [], []
    for m in range(len(dt)):
        u = []
        for g in range(pre.shape[1]):
            y = F.elu(pre[m, g] + x @ weights.A[g].T)
            for W, b in zip(weights.hidden, weights.biases, strict=True):
                y = F.elu(y @ W[g].T + b[g])
            u.append(y @ weights.V[g].T + weights.c[g])
        pulls = [shape.bound * torch.tanh(y[:, :Z]) for y in u]
        driven = sum(pulls[g] for g in shape.driver)
        drift = (driven if informed is None else torch.where(informed[m] > 0, driven, pulls[0])) - x
        R = shape.low + (shape.high - shape.low) * torch.sigmoid(u[0][:, Z:])
        x = x + dt[m] * drift + dt[m].sqrt() * R * noise[m]
        states.append(x)
        outputs.append(torch.stack(u))
    return torch.stack(states), torch.stack(outputs)


def problem(G, driver, L, M=7, P=4, Z=3, W=5):
    """Return the arguments of `sde_loop.run`, with leaves of the graph."""
    count = itertools.count(10)

    def leaf(*shape):
        return (0.6 * normal(*shape, seed=next(count))).requires_grad_()

    weights = Weights(
        leaf(G, W, Z), tuple(leaf(G, W, W) for _ in range(L - 1)), tuple(leaf(G, 1, W) for _ in range(L - 1)),
        leaf(G, 2 * Z, W), leaf(G, 1, 2 * Z),
    )  # fmt: skip
    dt = torch.rand(M, P, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    dt[4:, 2] = 0.0  # a path that has ended
    last = torch.tensor([M, 4, 0, 2]).repeat(P)[:P]
    informed = (torch.arange(M)[:, None] < last).double()[..., None] if G == 2 else None
    return leaf(P, Z), leaf(M, G, P, W), weights, dt, normal(M, P, Z), Shape(BOUND, LOW, HIGH, driver), informed


NETWORKS = [(1, (0,), 1), (1, (0,), 3), (2, (1,), 1), (2, (1,), 2), (2, (0, 1), 2), (2, (0, 1), 3), (2, (0,), 2)]
"""(G, driver, depth)"""


@pytest.fixture(params=NETWORKS, ids=lambda p: f"{p[0]} networks, driver {p[1]}, depth {p[2]}")
def case(request):
    return problem(*request.param)


def leaves_of(x0, pre, weights, *_):
    return [x0, pre, weights.A, weights.V, weights.c, *weights.hidden, *weights.biases]


@pytest.mark.parametrize("solver", ["direct", "torchsde"])
def test_paths_and_gradients_match_the_formula(case, solver):
    *rest, informed = case
    found = tuple(sde.solve(*rest, solver, informed))
    rounding.assert_equal(found, lambda: formula(*case))
    incoming = [normal(*x.shape, seed=3 + i) for i, x in enumerate(found)]

    def gradients(outputs):
        return torch.autograd.grad(outputs, leaves_of(*case), incoming, allow_unused=True, materialize_grads=True)

    rounding.assert_equal(gradients(found), lambda: gradients(formula(*case)))


@pytest.fixture(params=NETWORKS, ids=lambda p: f"{p[0]} networks, driver {p[1]}, depth {p[2]}")
def single(request):
    """Return a problem in single precision, with paths for more than one block and sizes that fill no whole vectors."""
    x0, pre, weights, *rest, shape, informed = problem(*request.param, P=11, Z=9, W=20)

    def leaf(x):
        return x.detach().float().requires_grad_()

    hidden, biases = (tuple(map(leaf, layers)) for layers in (weights.hidden, weights.biases))
    weights = Weights(leaf(weights.A), hidden, biases, leaf(weights.V), leaf(weights.c))
    data = [x if x is None else x.float() for x in (*rest, informed)]
    return leaf(x0), leaf(pre), weights, *data[:2], shape, data[2]


def with_gradients(form, case):
    outputs = tuple(form(*case))
    incoming = [normal(*x.shape, seed=3 + i).float() for i, x in enumerate(outputs)]
    return *outputs, *torch.autograd.grad(
        outputs, leaves_of(*case), incoming, allow_unused=True, materialize_grads=True
    )


def test_both_forms_match_the_formula_in_single_precision(single):
    forms.assert_both_match(sde_loop, formula, lambda form: with_gradients(form, single))


def test_compiled_form_repeats_with_and_without_gradients(single):
    first = forms.assert_repeats(sde_loop, single, lambda form: with_gradients(form, single))
    assert torch.equal(first[0][4:, 2], first[0][3, 2].expand(3, -1))  # a path that has ended


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_compiled_form_hides_no_non_finite_number(single, value):
    for eager, compiled in forms.with_non_finite(sde_loop, single, leaves_of(*single), value):
        assert torch.equal(eager.isfinite(), compiled.isfinite())


def test_compiled_form_is_taken_where_it_is_faster(single):
    x0, pre, weights, *_ = single
    assert sde_loop.compiles(x0, pre, weights)
    assert not sde_loop.compiles(x0.double(), pre, weights)
    assert not sde_loop.compiles(x0, pre.new_empty(1, 1, 1, sde_loop.COMPILED_WIDTH + 1), weights)


def test_ended_path_stays_constant(case):
    states = sde_loop.run(*case).states
    assert torch.equal(states[4:, 2], states[3, 2].expand(3, -1))


def test_hand_derived_gradient_matches_finite_differences(case):
    x0, pre, weights, dt, noise, shape, informed = case
    n = len(weights.hidden)
    short = None if informed is None else informed[:3]

    def paths(x0, pre, A, V, c, *layers):
        return tuple(sde_loop.run(x0, pre, Weights(A, layers[:n], layers[n:], V, c), dt[:3], noise[:3], shape, short))

    inputs = leaves_of(x0, pre.detach()[:3].requires_grad_(), weights)
    assert torch.autograd.gradcheck(paths, inputs, fast_mode=True)


def test_paths_are_equal_without_gradients(case):
    x0, pre, weights, dt, noise, shape, informed = case
    with torch.no_grad():
        plain = sde_loop.run(x0.detach(), pre.detach(), _detached(weights), dt, noise, shape, informed)
    with_gradients = sde_loop.run(*case)
    assert torch.equal(plain.states, with_gradients.states)
    assert torch.equal(plain.outputs, with_gradients.outputs)


def _detached(w):
    return Weights(
        w.A.detach(), tuple(x.detach() for x in w.hidden), tuple(x.detach() for x in w.biases), w.V.detach(),
        w.c.detach(),
    )  # fmt: skip


R = 0.5 * (LOW + HIGH)  # the diffusion if the networks' outputs are 0


def free_paths(x0, dt, noise):
    """Return paths of networks whose outputs are 0, dX = -X dt + R dW, in equal steps."""
    M, P, Z = noise.shape
    steps = torch.full((M, P, 1), dt, dtype=torch.float64)
    start, pre = torch.full((P, Z), x0, dtype=torch.float64), torch.zeros(M, 1, P, 1, dtype=torch.float64)
    return sde_loop.run(start, pre, zero_networks(Z), steps, noise, Shape(BOUND, LOW, HIGH, (0,))).states


def test_samples_follow_the_linear_sde():
    """Mean, variance, autocovariance and distribution match, with the noise that models use."""
    P, dt, x0, times = 20_000, 0.01, 1.5, (0.5, 1.0, 3.0)
    noise = keyed_normal(torch.arange(P), 300, 1).double().transpose(0, 1)
    paths = free_paths(x0, dt, noise)[..., 0]
    at = {t: paths[round(t / dt) - 1] for t in times}
    for t in times:
        mean, variance = ou_mean(t, x0), ou_covariance(t, t, R)
        std = math.sqrt(variance)
        assert abs(float(at[t].mean()) - mean) < 4 * std / P**0.5 + dt * x0 / 2  # the step's own bias is below that
        assert float(at[t].var()) == pytest.approx(variance, rel=4 * (2 / P) ** 0.5 + dt / 2)
        standard = ((at[t] - mean) / std).numpy()
        assert stats.kstest(standard, "norm").pvalue > 0.01
        assert stats.kstest(1.05 * standard, "norm").pvalue < 1e-3  # a wrong variance would be detected
        assert stats.kstest(standard + 0.05, "norm").pvalue < 1e-3
    for s, t in itertools.combinations(times, 2):
        found = float(torch.cov(torch.stack([at[s], at[t]]))[0, 1])
        assert found == pytest.approx(ou_covariance(s, t, R), abs=5 * R**2 / 2 / P**0.5 + dt * R**2)


def test_strong_order_is_one_with_additive_noise():
    """The reference is the exact solution on the same Brownian path: increments and their exponential integrals are
    drawn jointly on the finest grid."""
    T, M, P, x0 = 2.0, 256, 400, 1.5
    h = T / M
    joint = torch.tensor([[h, 1 - math.exp(-h)], [1 - math.exp(-h), 0.5 * (1 - math.exp(-2 * h))]]).double()
    increments = normal(M, P, 2) @ torch.linalg.cholesky(joint).T
    exact = torch.full((P,), x0, dtype=torch.float64)
    for m in range(M):
        exact = math.exp(-h) * exact + R * increments[m, :, 1]
    errors = []
    for n in (8, 16, 32, 64):
        dt = T / n
        noise = increments[..., :1].view(n, M // n, P, 1).sum(1) / dt**0.5
        errors.append(float((free_paths(x0, dt, noise)[-1, :, 0] - exact).square().mean().sqrt()))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(0.85 < order < 1.2 for order in orders), (errors, orders)


def test_weak_order_is_one():
    """Mean and variance at the end converge with order one; expectations are exact, see `sigma_points`."""
    T, x0, errors = 2.0, 1.5, []
    for M in (10, 20, 40, 80):
        noise, weights = sigma_points(M)
        end = free_paths(x0, T / M, noise)[-1, :, 0]
        mean = float(weights @ end)
        variance = float(weights @ end.square()) - mean**2
        errors.append((abs(mean - ou_mean(T, x0)), abs(variance - ou_covariance(T, T, R))))
    for of_moment in zip(*errors, strict=True):
        orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(of_moment)]
        assert all(0.9 < order < 1.15 for order in orders), (of_moment, orders)


@pytest.mark.parametrize(("posterior", "prior"), [((0.5, 1.0), (1.2, -0.4)), ((2.0, 0.3), (0.7, 0.3))])
def test_path_kl_converges_with_order_one(posterior, prior):
    """1/2 E sum |R^-1 (H_Q - H_G)|^2 dt along paths of Q converges to the KL of two Ornstein-Uhlenbeck processes;
    expectations are exact, see `sigma_points`."""
    T, x0, errors = 2.0, 1.5, []
    weights = linear_networks(*zip(prior, posterior, strict=True))
    shape = Shape(LINEAR, LOW, HIGH, (1,))
    exact = ou_path_kl(T, x0, R, posterior, prior)
    for M in (10, 20, 40, 80, 160):
        noise, mass = sigma_points(M)
        P = len(mass)
        dt = torch.full((M, P, 1), T / M, dtype=torch.float64)
        start = torch.full((P, 1), x0, dtype=torch.float64)
        outputs = sde_loop.run(start, linear_pre(M, 2, P), weights, dt, noise, shape).outputs
        gap = (shape.target(outputs) - shape._replace(driver=(0,)).target(outputs)) / shape.diffusion(outputs)
        kl = float(mass @ (0.5 * gap.square() * dt).sum((0, 2)))
        errors.append(abs(kl - exact))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert errors[-1] < 0.02 * exact
    assert all(0.85 < order < 1.25 for order in orders), (exact, errors, orders)
