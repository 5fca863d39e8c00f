"""Loops that are replayed in blocks, with recorded calls in place of a GPU's graphs."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

from models.solvers import recurrence
from models.solvers.gpu import first_use, graphs, replay
from models.solvers.gru_flow import GruFlow
from models.solvers.mlp_flow import MlpFlow
from tests import rounding
from tests.models.solvers.recorded import Recorded

LENGTHS = (11, 4, 1, 19)
"""Steps: blocks of 8 and 4, with padding; one block; part of a block; blocks of 8, 8 and 4, with padding."""


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setattr(graphs, "CAPTURES", {"cpu": Recorded})
    monkeypatch.setattr(replay, "SIZES", (8, 4))  # so that short loops have blocks of both sizes
    monkeypatch.setattr(replay, "DTYPES", {torch.float64, torch.float32})
    monkeypatch.setattr(replay, "_buckets", OrderedDict())
    monkeypatch.setattr(first_use, "_found", {})


def recurrent(flow=GruFlow, M=11, seed=0, B=3):
    """Return arguments of `recurrence.run` in double precision."""
    g, R, H = torch.Generator().manual_seed(seed), 2, 4

    def leaf(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    weights = [leaf(*shape) for shape in flow.shapes(R, H).values()]
    dt = torch.rand(M, R, B, 1, generator=g, dtype=torch.float64)
    observe = (torch.rand(M, R, B, 1, generator=g) < 0.3).double()
    return leaf(R, B, H), leaf(M, R, B, 3 * H), flow, weights, (leaf(R, 3 * H, H), leaf(R, 1, 3 * H)), dt, observe


def gradients(outputs, problem, seed=1):
    h0, x, _, weights, update, *_ = problem
    g = torch.Generator().manual_seed(seed)
    incoming = [torch.randn(y.shape, generator=g, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, [h0, x, *weights, *update], incoming)


def with_gradients(form, problem):
    outputs = form(*problem)
    return *outputs, *gradients(outputs, problem)


def eager(problem):
    return with_gradients(recurrence.run_eager, problem)


@pytest.mark.parametrize("flow", [GruFlow, MlpFlow, MlpFlow.sized(2, 5, "elu")])
@pytest.mark.parametrize("M", LENGTHS)
def test_replayed_recurrence_equals_the_eager_one(flow, M):
    problem = recurrent(flow, M)
    rounding.assert_equal(with_gradients(recurrence.run_replayed, problem), lambda: eager(problem))


def test_batches_share_buffers_without_mixing():
    """Two batches go forward, then both backward; then one of another length, and one of another size."""
    first, second = recurrent(seed=0), recurrent(seed=1)
    outputs = [recurrence.run_replayed(*problem) for problem in (first, second)]
    for problem, found in zip((first, second), outputs, strict=True):
        rounding.assert_equal((*found, *gradients(found, problem)), lambda p=problem: eager(p))
    for problem in (recurrent(M=9, seed=2), recurrent(seed=3, B=2), first):
        rounding.assert_equal(with_gradients(recurrence.run_replayed, problem), lambda p=problem: eager(p))
    assert len(replay._buckets) == 2  # one for each batch size


def test_every_copy_into_a_buffer_is_needed(monkeypatch):
    """With any one copy left out, the result of a second batch is wrong. Biases are the exception: no gradient needs
    them, so that the backward pass does not need their copies.
    """
    first, second = recurrent(seed=0), recurrent(seed=1)
    expected = eager(second)
    copy, made, omitted = torch._foreach_copy_, [0], [-1]

    def counted(to, source):
        left = [i for i in range(len(to)) if made[0] + i != omitted[0]]
        made[0] += len(to)
        copy([to[i] for i in left], [source[i] for i in left])

    monkeypatch.setattr(replay, "torch", SimpleNamespace(**{**vars(torch), "_foreach_copy_": counted}))

    def second_is_right():
        """Compute both batches side by side, with the copies of the second counted from 0."""
        recurrence.run_replayed(*first)
        made[0] = 0
        outputs = recurrence.run_replayed(*second)
        until = made[0]
        made[0] = -(10**6)
        gradients(recurrence.run_replayed(*first), first, seed=2)
        made[0] = until
        found = *outputs, *gradients(outputs, second)
        return all(torch.allclose(x, y, rtol=1e-6, atol=1e-9) for x, y in zip(found, expected, strict=True))

    assert second_is_right()
    needless = []
    for omitted[0] in range(made[0]):
        if second_is_right():
            needless.append(omitted[0])
    assert len(needless) == 3


def test_inference_shares_the_blocks_of_training():
    problem = recurrent()
    with torch.inference_mode():
        plain = recurrence.run_replayed(*problem)
    found = recurrence.run_replayed(*problem)
    assert all(torch.equal(x, y) for x, y in zip(plain, found, strict=True))
    rounding.assert_equal((*found, *gradients(found, problem)), lambda: eager(problem))


def test_least_used_buffers_are_dropped(monkeypatch):
    monkeypatch.setattr(replay, "MOST", 2)
    for B in (1, 2, 1, 3):
        recurrence.run_replayed(*recurrent(M=3, B=B))
    assert [key[1][6][1] for key in replay._buckets] == [1, 3]  # the batch size in the state's shape


def test_replayed_recurrence_is_checked_at_its_first_use(monkeypatch):
    """It is used if graphs are available, unless it differs from the eager form."""
    problem = recurrent(M=4)
    monkeypatch.setattr(recurrence, "compiles", lambda *_: False)
    found = recurrence.run(*problem)
    assert len(replay._buckets) == 1
    assert all(torch.equal(x, y) for x, y in zip(found, recurrence.run_replayed(*problem), strict=True))
    monkeypatch.setattr(first_use, "_found", {})
    monkeypatch.setattr(recurrence, "run_replayed", lambda *p: [1.01 * x for x in recurrence.run_eager(*p)])
    with pytest.warns(UserWarning, match="replayed recurrence is turned off, the eager form is taken: result 0"):
        found = recurrence.run(*problem)
    assert all(torch.equal(x, y) for x, y in zip(found, recurrence.run_eager(*problem), strict=True))
