import pytest
import torch

from models.recurrence import Weights, run


def formula(h, x, w, dt, observe):
    """The docstring's formulas, a line each, differentiated by autograd."""
    H, before, after = h.shape[-1], [], []
    for m in range(len(dt)):
        z, r = torch.sigmoid(h @ w.W.mT + w.b).split(H, -1)
        g = torch.tanh((r * h) @ w.V.mT + w.c)
        h = h + dt[m] * (1 - z) * (g - h)
        before.append(h)
        u = (h @ w.U.mT + w.d).split(H, -1)
        a = x[m].split(H, -1)
        r, z = torch.sigmoid(a[0] + u[0]), torch.sigmoid(a[1] + u[1])
        n = torch.tanh(a[2] + r * u[2])
        h = h + observe[m] * (1 - z) * (n - h)
        after.append(h)
    return torch.stack(before), torch.stack(after)


@pytest.fixture(params=[0.0, 0.3, 1.0], ids=["never observed", "sometimes", "always"])
def case(request):
    g = torch.Generator().manual_seed(0)
    M, R, B, H = 9, 2, 3, 4

    def tensor(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    weights = Weights(tensor(R, 2 * H, H), tensor(R, 1, 2 * H), tensor(R, H, H), tensor(R, 1, H),
                      tensor(R, 3 * H, H), tensor(R, 1, 3 * H))  # fmt: skip
    dt = torch.rand(M, R, B, 1, generator=g, dtype=torch.float64)
    observe = (torch.rand(M, R, B, 1, generator=g) < request.param).double()
    return tensor(R, B, H), tensor(M, R, B, 3 * H), weights, dt, observe


def test_states_are_those_of_the_formula(case):
    torch.testing.assert_close(run(*case), formula(*case), rtol=0, atol=1e-14)


def test_hand_derived_gradient_is_that_of_autograd(case):
    h0, x, weights, *_ = case
    leaves = [h0, x, *weights]
    outputs, expected = run(*case), formula(*case)
    g = torch.Generator().manual_seed(1)
    incoming = [torch.randn(o.shape, generator=g, dtype=o.dtype) for o in outputs]
    ours = torch.autograd.grad(outputs, leaves, incoming)
    theirs = torch.autograd.grad(expected, leaves, incoming, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_is_refused(case):
    after = run(*case)[1]
    (gradient,) = torch.autograd.grad(after, case[0], torch.ones_like(after).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
