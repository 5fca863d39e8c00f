"""Both forms of ODE2VAE's loop against the formulas of its docstring, in single precision."""

import sys

import pytest
import torch
import torch.nn.functional as F

import models.solvers
from models.solvers import flow, ode
from models.solvers.flow import ACTIVATIONS, TABLEAUS, Weights
from tests.models.solvers import forms

FUNCTIONS = {
    "tanh": (torch.tanh, lambda a: 1 - a * a),
    "elu": (F.elu, lambda a: torch.where(a > 0, 1.0, a + 1)),
    "relu": (torch.relu, lambda a: torch.where(a > 0, 1.0, 0.0)),
}


def formula(z, weights, dt, method, activation):
    """Integrate by plain operations, differentiable by autograd."""
    (act, slope), (a, b), (W1, b1, W2, b2, W3, b3) = FUNCTIONS[activation], TABLEAUS[method], weights
    lead, states, traces = weights.lead, [], []
    K = W2 * (W1[..., lead:] @ W3).mT
    for h in dt:
        k, trace = [], []
        for row in a:
            at = sum((h * c * k_j for c, k_j in zip(row, k, strict=False)), z)
            a1 = act(at @ W1.mT + b1)
            a2 = act(a1 @ W2.mT + b2)
            k.append(torch.cat([at[..., at.shape[-1] - lead :], a2 @ W3.mT + b3], -1))
            trace.append(((slope(a1) @ K.mT) * slope(a2)).sum(-1))
        z = sum((h * c * k_j for c, k_j in zip(b, k, strict=True)), z)
        states.append(z)
        traces.append(h[..., 0] * sum(c * tr for c, tr in zip(b, trace, strict=True)))
    return torch.stack(states), torch.stack(traces)


def problem(G=3, P=1, q=3, H=30, M=7, second_order=True):
    """Return start, weights and irregular step lengths, some of which are 0."""
    g = torch.Generator().manual_seed(0)
    outputs = q if second_order else 2 * q
    shapes = [(G, H, 2 * q), (G, 1, H), (G, H, H), (G, 1, H), (G, outputs, H), (G, 1, outputs)]
    weights = Weights(*((torch.randn(s, generator=g) / s[2] ** 0.5).requires_grad_() for s in shapes))
    dt = 0.3 * torch.rand(M, G, P, 1, generator=g)
    dt[M // 2 :, 0, 0] = 0.0  # a trajectory that has ended
    dt[1, -1, -1] = 0.0
    return torch.randn(G, P, 2 * q, generator=g).requires_grad_(), weights, dt


def with_gradients(form, z0, weights, dt, method, activation):
    outputs = tuple(form(z0, weights, dt, method, activation))
    g = torch.Generator().manual_seed(1)
    incoming = [torch.randn(x.shape, generator=g) for x in outputs]
    return *outputs, *torch.autograd.grad(outputs, [z0, *weights], incoming)


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "sizes", [(3, 1, 3, 30, 5, True), (1, 4, 3, 17, 5, False), (2, 1, 16, 100, 3, True), (2, 3, 5, 5, 5, True)]
)
def test_both_forms_match_the_formula(method, activation, sizes):
    z0, weights, dt = problem(*sizes)
    forms.assert_both_match(flow, formula, lambda form: with_gradients(form, z0, weights, dt, method, activation))


def test_compiled_values_are_equal_without_gradients():
    z0, weights, dt = problem()
    found = flow.run_compiled(z0, weights, dt, "rk4", "tanh")
    with torch.no_grad():
        plain = flow.run_compiled(z0, weights, dt, "rk4", "tanh")
    for x, y in zip(found, plain, strict=True):
        assert torch.equal(x, y)


def test_compiled_form_repeats_bit_for_bit():
    first, again = (with_gradients(flow.run_compiled, *problem(), "rk4", "tanh") for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_compiled_trajectory_ignores_neighbours():
    """A trajectory has its own arithmetic, so that a batch changes no bit of it."""
    z0, weights, dt = problem(G=3)
    together = flow.run_compiled(z0, weights, dt, "rk4", "tanh")
    for g in range(3):
        own = Weights(*(w[g : g + 1] for w in weights))
        alone = flow.run_compiled(z0[g : g + 1], own, dt[:, g : g + 1], "rk4", "tanh")
        assert torch.equal(alone.states[:, 0], together.states[:, g])
        assert torch.equal(alone.trace[:, 0], together.trace[:, g])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weight_is_not_hidden(activation, value):
    """The compiled loop has a non-finite state wherever torch's loop has one."""
    for layer in range(6):
        z0, weights, dt = problem()
        with torch.no_grad():
            weights[layer][1].view(-1)[0] = value
            eager, compiled = (form(z0, weights, dt, "rk4", activation) for form in (flow.run_eager, flow.run_compiled))
        assert torch.equal(eager.states.isfinite(), compiled.states.isfinite())
        assert compiled.states[:, [0, 2]].isfinite().all()


def test_double_precision_and_many_rows_stay_eager():
    z0, weights, _ = problem()
    assert flow.compiles(z0, weights)
    assert not flow.compiles(z0.double(), Weights(*(w.double() for w in weights)))
    assert not flow.compiles(z0.expand(3, flow.COMPILED_ROWS + 1, 6), weights)


def test_missing_numba_falls_back_to_torch(monkeypatch):
    z0, weights, dt = problem()
    monkeypatch.delattr(models.solvers, "flow_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "models.solvers.flow_kernels", None)
    flow._kernels.cache_clear()
    found = flow.run(z0, weights, dt, "rk4", "tanh")
    flow._kernels.cache_clear()
    for x, y in zip(found, flow.run_eager(z0, weights, dt, "rk4", "tanh"), strict=True):
        assert torch.equal(x, y)


def test_solver_takes_the_compiled_form():
    """The compiled form is used in single precision on a CPU, as in training."""
    z0, weights, _ = problem()
    times = torch.arange(4, dtype=torch.float64).expand(3, 4) * 0.1
    grid = ode.grid_of(times, 0.1)
    path = ode.solve(z0[:, 0], torch.zeros(3), weights, grid, ode.SolverConfig(), "tanh")
    assert path.z.grad_fn is not None
    states, _ = flow.run_compiled(z0, weights, torch.full((3, 3, 1, 1), 0.1), "rk4", "tanh")
    torch.testing.assert_close(path.z[:, 1:], states[:, :, 0].movedim(0, 1), rtol=1e-6, atol=1e-6)
