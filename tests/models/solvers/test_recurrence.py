import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from models.gru_ode import GruOde
from models.parts.likelihoods import Marginal
from models.solvers import recurrence
from models.solvers.gru_flow import GruFlow
from models.solvers.mlp_flow import MlpFlow
from models.solvers.recurrence import run
from tests import rounding
from tests.models.solvers import forms

DEEP = MlpFlow.sized(3, 5, "elu")
FLOWS = {"gru": GruFlow, "mlp": MlpFlow, "deep": DEEP}


def gru(h, W, b, V, c):
    z, r = torch.sigmoid(h @ W.mT + b).chunk(2, -1)
    return (1 - z) * (torch.tanh((r * h) @ V.mT + c) - h)


def mlp(h, W, b, V, c):
    return torch.tanh(h @ W.mT + b) @ V.mT + c


def deep(h, W1, b1, W2, b2, W3, b3, V, c):
    a = F.elu(F.elu(h @ W1.mT + b1) @ W2.mT + b2)
    return F.elu(a @ W3.mT + b3) @ V.mT + c


def formula(h, x, flow, weights, update, dt, observe):
    """Compute the docstrings' formulas, one line each, differentiable by autograd."""
    H, before, after = h.shape[-1], [], []
    U, d = update
    for m in range(len(dt)):
        h = h + dt[m] * {GruFlow: gru, MlpFlow: mlp, DEEP: deep}[flow](h, *weights)
        before.append(h)
        u = (h @ U.mT + d).split(H, -1)
        a = x[m].split(H, -1)
        r, z = torch.sigmoid(a[0] + u[0]), torch.sigmoid(a[1] + u[1])
        n = torch.tanh(a[2] + r * u[2])
        h = h + observe[m] * (1 - z) * (n - h)
        after.append(h)
    return torch.stack(before), torch.stack(after)


@pytest.fixture(params=itertools.product(FLOWS, (0.0, 0.3, 1.0)), ids=lambda p: f"{p[0]}, {p[1]} observed")
def case(request):
    name, share = request.param
    g = torch.Generator().manual_seed(0)
    M, R, B, H = 35, 2, 3, 4  # two blocks of steps, and part of one

    def tensor(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    weights = [tensor(*shape) for shape in FLOWS[name].shapes(R, H).values()]
    dt = torch.rand(M, R, B, 1, generator=g, dtype=torch.float64)
    observe = (torch.rand(M, R, B, 1, generator=g) < share).double()
    update = tensor(R, 3 * H, H), tensor(R, 1, 3 * H)
    return tensor(R, B, H), tensor(M, R, B, 3 * H), FLOWS[name], weights, update, dt, observe


def test_states_match_the_formula(case):
    rounding.assert_equal(run(*case), lambda: formula(*case))


def test_hand_derived_gradient_matches_autograd(case):
    h0, x, _, weights, update, *_ = case
    leaves = [h0, x, *weights, *update]
    outputs = run(*case)
    g = torch.Generator().manual_seed(1)
    incoming = [torch.randn(o.shape, generator=g, dtype=o.dtype) for o in outputs]

    def by_autograd():
        return torch.autograd.grad(formula(*case), leaves, incoming, allow_unused=True, materialize_grads=True)

    rounding.assert_equal(torch.autograd.grad(outputs, leaves, incoming), by_autograd)


def test_hand_derived_gradient_matches_finite_differences(case):
    h0, x, flow, weights, update, dt, observe = case

    def last_state(h0, U, d, *weights):
        return run(h0, x.detach()[:3], flow, weights, (U, d), dt[:3], observe[:3])

    assert torch.autograd.gradcheck(last_state, (h0, *update, *weights))


@pytest.fixture(params=[0.0, 0.3, 1.0], ids=lambda share: f"{share} observed")
def single(request):
    """Return a problem in single precision, with rows for more than one block and sizes that fill no whole vectors."""
    g = torch.Generator().manual_seed(0)
    M, R, B, H = 20, 2, 11, 20

    def leaf(*shape):
        return (0.5 * torch.randn(*shape, generator=g)).requires_grad_()

    weights, update = [leaf(*shape) for shape in GruFlow.shapes(R, H).values()], (leaf(R, 3 * H, H), leaf(R, 1, 3 * H))
    steps = torch.tensor([M, 3, 9, M, 1, 12, 12, 5, M, 2, 17])  # where the sequences end
    alive = (torch.arange(M)[:, None] < steps).float()[:, None, :, None]
    dt, observe = torch.rand(M, R, B, 1, generator=g), (torch.rand(M, R, B, 1, generator=g) < request.param).float()
    return leaf(R, B, H), leaf(M, R, B, 3 * H), GruFlow, weights, update, dt * alive, observe * alive


def with_gradients(form, case):
    h0, x, _, weights, update, *_ = case
    outputs = tuple(form(*case))
    g = torch.Generator().manual_seed(1)
    incoming = [torch.randn(o.shape, generator=g) for o in outputs]
    leaves = [h0, x, *weights, *update]
    return *outputs, *torch.autograd.grad(outputs, leaves, incoming, allow_unused=True, materialize_grads=True)


def test_both_forms_match_the_formula_in_single_precision(single):
    forms.assert_both_match(recurrence, formula, lambda form: with_gradients(form, single))


def test_compiled_form_repeats_with_and_without_gradients(single):
    forms.assert_repeats(recurrence, single, lambda form: with_gradients(form, single))


def test_compiled_form_ignores_other_sequences(single):
    """Neither the number, nor the lengths, nor the observations of other sequences change a bit."""
    h0, x, flow, weights, update, dt, observe = (
        y if isinstance(y, type | list | tuple) else y.detach() for y in single
    )
    together = recurrence.run_compiled(h0, x, flow, weights, update, dt, observe)
    for b in range(dt.shape[2]):
        one = (h0[:, [b]], x[:, :, [b]], flow, weights, update, dt[:, :, [b]], observe[:, :, [b]])
        for alone, all_rows in zip(recurrence.run_compiled(*one), together, strict=True):
            assert torch.equal(alone[:, :, 0], all_rows[:, :, b])


@pytest.mark.parametrize("single", [1.0], indirect=True)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_compiled_form_hides_no_non_finite_number(single, value):
    """The eager form also spoils the states after a sequence's end, by 0 times NaN."""
    h0, x, _, weights, update, _, observe = single
    alive = observe[..., 0] > 0
    for eager, compiled in forms.with_non_finite(recurrence, single, (h0, x, *weights, *update), value):
        assert torch.equal(eager.isfinite()[alive], compiled.isfinite()[alive])


def test_compiled_form_is_taken_where_it_is_faster(single):
    h0, x, flow, weights, update, *_ = single
    assert recurrence.compiles(h0, x, flow, weights, update)
    assert not recurrence.compiles(h0.double(), x, flow, weights, update)
    assert not recurrence.compiles(h0, x, MlpFlow, weights, update)
    wide = h0.new_empty(1, 1, recurrence.COMPILED_WIDTH + 1)
    assert not recurrence.compiles(wide, x, flow, weights, update)


def test_network_flow_converges_with_order_one():
    """The closed form for one unit with dh/dt = -tanh(h) is sinh h(t) = sinh h(0) exp(-t)."""
    one, none = torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    update, h0, errors = (torch.zeros(1, 3, 1).double(), torch.zeros(1, 1, 3).double()), 1.5 * one, []
    for M in (10, 20, 40, 80):
        dt = torch.full((M, 1, 1, 1), 2.0 / M, dtype=torch.float64)
        x = torch.zeros(M, 1, 1, 3, dtype=torch.float64)
        end = run(h0, x, MlpFlow, (one, none, -one, none), update, dt, torch.zeros_like(dt))[0][-1]
        errors.append(abs(float(end) - math.asinh(math.sinh(1.5) * math.exp(-2.0))))
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert errors[-1] < 5e-3
    assert all(0.9 < order < 1.1 for order in orders), (errors, orders)


def test_default_flow_keeps_initial_weights():
    """A flow with one layer of H units has the parameter names, shapes and initial draws of earlier runs."""
    assert MlpFlow.sized(1, None, "tanh").shapes(1, 4) == MlpFlow.shapes(1, 4)
    assert list(MlpFlow.shapes(1, 4)) == ["hidden", "hidden_bias", "rate", "rate_bias"]
    torch.manual_seed(0)
    net = GruOde(Marginal(torch.zeros(2), 1.0), 4, 1, 1.0, 1.0, MlpFlow)
    torch.manual_seed(0)
    for name in ("flow_hidden", "flow_hidden_bias", "flow_rate", "flow_rate_bias", "update", "update_bias"):
        expected = torch.empty_like(net.get_parameter(name)).uniform_(-0.5, 0.5)
        assert torch.equal(net.get_parameter(name), expected), name


def test_second_derivative_is_refused(case):
    after = run(*case)[1]
    (gradient,) = torch.autograd.grad(after, case[0], torch.ones_like(after).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
