import pytest
import torch

from models.solvers import ode
from models.solvers.flow import ACTIVATIONS, Weights
from models.solvers.ode import SolverConfig
from tests import rounding

PLAIN = {"backend": "torchdiffeq"}


def network(G=3, q=2, H=5, lead=None, seed=0):
    """Return random float64 weights as leaves of the graph."""
    g = torch.Generator().manual_seed(seed)
    lead = q if lead is None else lead
    shapes = [(G, H, 2 * q), (G, 1, H), (G, H, H), (G, 1, H), (G, 2 * q - lead, H), (G, 1, 2 * q - lead)]
    return Weights(*(torch.randn(s, generator=g, dtype=torch.float64).mul(0.5).requires_grad_() for s in shapes))


def linear(A, offset=50.0):
    """Return a network with f(z) = A z for |z| << offset, whose ELU units stay in their linear part."""
    outputs, Z = A.shape
    one = torch.eye(Z, dtype=A.dtype)[None]
    zero = torch.zeros(1, 1, Z, dtype=A.dtype)
    return Weights(one, zero + offset, one, zero, A[None], -offset * A.sum(1)[None, None])


def frames(N=3, T=6, irregular=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    gaps = (
        torch.rand(N, T - 1, generator=g, dtype=torch.float64) * 0.4 + 0.02
        if irregular
        else torch.full((N, T - 1), 0.1)
    )
    return torch.cat([torch.zeros(N, 1, dtype=torch.float64), gaps.double().cumsum(1)], 1)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(weights, z0, times, activation="tanh", **options):
    solver = SolverConfig(**options)
    grid = ode.grid_of(times, solver.max_step)
    return ode.solve(z0, -0.5 * z0.square().sum(1), weights, grid, solver, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("q", "lead", "G", "P"), [(3, 3, 4, 1), (5, 5, 1, 4), (3, 0, 4, 2)])
@pytest.mark.parametrize("seed", range(5))
def test_trace_matches_autograd_and_jacobian(activation, q, lead, G, P, seed):
    weights, z = network(G, q, 30, lead, seed), normal(G, P, 2 * q, seed=seed)
    dz, closed = ode.trace_closed(z, weights, activation, ode.trace_matrix(weights))
    dz_too, by_autograd = ode.trace_autograd(z, weights, activation)
    assert torch.equal(dz, dz_too)
    torch.testing.assert_close(closed, by_autograd, rtol=1e-12, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda z: ode.field(z, weights, activation)[0].sum((0, 1)), z)
    full = jacobian.permute(1, 2, 0, 3)[..., lead:, lead:].diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(closed, full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("rk4", 4)])
@pytest.mark.parametrize("backend", ["direct", "torchdiffeq"])
def test_linear_flow_matches_matrix_exponential(method, order, backend):
    """z_t = exp(t J) z_0 and log q(z_t) = log q(z_0) - t tr(J), with the order of the method. The density of a linear
    field is exact at every step size, so that its only error is rounding."""
    A = normal(2, 4)
    J = torch.cat([torch.eye(4, dtype=torch.float64)[2:], A])
    z0, times = normal(3, 4), frames(irregular=False)
    exact = torch.stack([z0 @ torch.matrix_exp(t * J).mT for t in times[0]], 1)
    errors = []
    for step in (0.05, 0.025):
        path = solve(linear(A), z0, times, "elu", backend=backend, method=method, max_step=step)
        errors.append(float((path.z - exact).abs().max()))
        log_q = -0.5 * z0.square().sum(1, keepdim=True) - times * J.diagonal().sum()
        torch.testing.assert_close(path.log_q, log_q, rtol=0, atol=1e-10)
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


def test_nonlinear_density_matches_change_of_variables():
    """log q(z_t) = log q(z_0) - log |det dz_t / dz_0| holds to the order of the method."""
    weights, z0, times = network(G=1, q=2), normal(1, 4), frames(N=1, irregular=False)
    errors = []
    for step in (0.05, 0.025):
        path = solve(weights, z0, times, max_step=step)
        end = torch.autograd.functional.jacobian(lambda z: solve(weights, z, times, max_step=1e-3).z[0, -1], z0)[:, 0]
        exact = -0.5 * z0.square().sum() - torch.linalg.slogdet(end).logabsdet
        errors.append(float((path.log_q[0, -1] - exact).abs()))
    assert errors[1] < 1e-7
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.3)


@pytest.mark.parametrize("lead", [2, 0])
@pytest.mark.parametrize("G", [1, 3])
@pytest.mark.parametrize("method", ["rk4", "midpoint"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_direct_solver_agrees_with_torchdiffeq(lead, G, method, activation):
    weights, z0, times = network(G, lead=lead), normal(3, 4).requires_grad_(), frames()
    results = []
    for options in ({}, PLAIN, {**PLAIN, "trace": "autograd"}):
        path = solve(weights, z0, times, activation, method=method, **options)
        loss = (path.z * normal(3, 6, 4, seed=5)).sum() + (path.log_q * normal(3, 6, seed=6)).sum()
        results.append([path.z, path.log_q, *torch.autograd.grad(loss, [z0, *weights])])
    # 25 steps of four stages, 20 roundings of numbers up to 3 in each, ten times as much through the steps that follow.
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-11, atol=1e-11)


def test_gradients_match_finite_differences():
    weights, z0, times = network(G=3), normal(3, 4).requires_grad_(), frames(T=4)

    def loss(z0, *weights):
        path = solve(Weights(*weights), z0, times, max_step=0.2)
        return path.z, path.log_q

    assert torch.autograd.gradcheck(loss, (z0, *weights), eps=1e-6, atol=1e-7)


def test_dopri5_matches_the_fine_solution():
    weights, z0, times = network(), normal(3, 4), frames()
    fine = solve(weights, z0, times, max_step=0.002)
    adaptive = solve(weights, z0, times, **PLAIN, method="dopri5", tolerance=1e-9)
    torch.testing.assert_close(adaptive[:2], fine[:2], rtol=0, atol=1e-6)
    coarse = solve(weights, z0, times, **PLAIN, method="dopri5", tolerance=1e-3)
    assert coarse.evaluations < adaptive.evaluations


def test_solvers_count_evaluations_alike():
    weights, z0, times = network(), normal(3, 4), frames(irregular=False)
    counts = [solve(weights, z0, times, **options).evaluations for options in ({}, PLAIN)]
    assert counts == [20, 20]  # 5 intervals of one step, 4 stages each


def test_trajectory_ignores_neighbours_and_padding():
    weights, z0, times = network(), normal(3, 4), frames()
    together = solve(weights, z0, times)
    of_z, of_log_q = rounding.bounds(lambda: solve(weights, z0, times, **PLAIN)[:2])
    for n in range(3):
        own = Weights(*(w[n : n + 1] for w in weights))
        padded = torch.cat([times[n : n + 1], times[n : n + 1, -1:].expand(1, 4)], 1)
        alone = solve(own, z0[n : n + 1], padded)
        torch.testing.assert_close(alone.z[0, :6], together.z[n], rtol=0, atol=of_z)
        assert torch.equal(alone.z[0, 6:], alone.z[0, 5:6].expand(4, 4))
        torch.testing.assert_close(alone.log_q[0, :6], together.log_q[n], rtol=0, atol=of_log_q)


def test_unsupported_direct_solver_options_are_refused():
    for options in ({"method": "dopri5"}, {"trace": "autograd"}):
        with pytest.raises(ValueError, match="backend=torchdiffeq"):
            SolverConfig(**options)


@pytest.mark.parametrize("options", [{}, PLAIN], ids=["direct", "torchdiffeq"])
def test_autocast_leaves_solver_and_trace_alone(options):
    """In half precision log q would move by about 2^-9 of the trace's integral; values and gradients stay the same."""
    weights = Weights(*(x.float().requires_grad_() for x in network(3, 3, 30, 3, seed=0)))
    z0, times, found = normal(3, 6).float(), frames(), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            path = solve(weights, z0, times, **options)
        found.append([path.z, path.log_q, *torch.autograd.grad(path.log_q.sum() + path.z.sum(), weights)])
    for plain, autocast in zip(*found, strict=True):
        assert autocast.dtype == torch.float32
        assert torch.equal(plain, autocast)
