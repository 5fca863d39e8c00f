"""Loops that are replayed in blocks, with recorded calls in place of a GPU's graphs."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

from models.parts.noise import keyed_normal
from models.solvers import recurrence, sde_loop
from models.solvers.gpu import first_use, graphs, replay
from models.solvers.gru_flow import GruFlow
from models.solvers.mlp_flow import MlpFlow
from tests import rounding
from tests.models.solvers import test_sde_loop
from tests.models.solvers.gpu.recorded import Recorded

LENGTHS = (11, 4, 1, 19)
"""Steps: blocks of 8 and 4, with padding; one block; part of a block; blocks of 8, 8 and 4, with padding."""


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setattr(graphs, "CAPTURES", {"cpu": Recorded})
    monkeypatch.setattr(replay, "SIZES", (8, 4))  # so that short loops have blocks of both sizes
    monkeypatch.setattr(replay, "DTYPES", {torch.float64, torch.float32})
    monkeypatch.setattr(replay, "_buckets", OrderedDict())
    monkeypatch.setattr(replay, "_calls", OrderedDict())
    monkeypatch.setattr(first_use, "_found", {})


def recurrent(M=11, seed=0, B=3, flow=GruFlow):
    """Return arguments of `recurrence.run` in double precision."""
    g, R, H = torch.Generator().manual_seed(seed), 2, 4

    def leaf(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    weights = [leaf(*shape) for shape in flow.shapes(R, H).values()]
    dt = torch.rand(M, R, B, 1, generator=g, dtype=torch.float64)
    observe = (torch.rand(M, R, B, 1, generator=g) < 0.3).double()
    return leaf(R, B, H), leaf(M, R, B, 3 * H), flow, weights, (leaf(R, 3 * H, H), leaf(R, 1, 3 * H)), dt, observe


def stochastic(M=11, seed=0, B=4, networks=(2, (1,), 2)):
    """Return arguments of `sde_loop.run` in double precision."""

    def changed(x):
        """Return other numbers of the same kind for each seed."""
        if x is None or isinstance(x, sde_loop.Shape):
            return x
        if isinstance(x, tuple):
            return x._make(map(changed, x)) if hasattr(x, "_fields") else tuple(map(changed, x))
        found = x.detach().roll((seed, seed), (0, 1)) * (1.0 if x.unique().numel() == 2 else 0.9**seed)
        return found.requires_grad_(x.requires_grad)

    return tuple(map(changed, test_sde_loop.problem(*networks, M=M, P=B)))


LOOPS = {"recurrence": (recurrence, recurrent, 3), "SDE loop": (sde_loop, stochastic, 4)}
"""Module, problem, and copies of blocks of 8 and 4 steps that could be left out: biases, which no gradient needs, and
the networks' outputs of each block."""


def leaves_of(problem):
    found = []
    for part in problem:
        if isinstance(part, torch.Tensor) and part.requires_grad:
            found.append(part)
        elif isinstance(part, tuple | list):
            found += leaves_of(part)
    return found


def gradients(outputs, problem, seed=1):
    g = torch.Generator().manual_seed(seed)
    incoming = [torch.randn(y.shape, generator=g, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, leaves_of(problem), incoming)


def with_gradients(form, problem):
    outputs = form(*problem)
    return *outputs, *gradients(outputs, problem)


def assert_equal_to_eager(module, problem):
    found = with_gradients(module.run_replayed, problem)
    rounding.assert_equal(found, lambda: with_gradients(module.run_eager, problem))


@pytest.mark.parametrize("flow", [GruFlow, MlpFlow, MlpFlow.sized(2, 5, "elu")])
@pytest.mark.parametrize("M", LENGTHS)
def test_replayed_recurrence_equals_the_eager_one(flow, M):
    assert_equal_to_eager(recurrence, recurrent(M, flow=flow))


@pytest.mark.parametrize("networks", test_sde_loop.NETWORKS, ids=str)
@pytest.mark.parametrize("M", LENGTHS)
def test_replayed_sde_loop_equals_the_eager_one(networks, M):
    assert_equal_to_eager(sde_loop, stochastic(M, networks=networks))


@pytest.mark.parametrize("loop", LOOPS)
def test_batches_share_buffers_without_mixing(loop):
    """Two batches go forward, then both backward; then one of another length, and one of another size."""
    module, make, _ = LOOPS[loop]
    problems = make(seed=0), make(seed=1)
    outputs = [module.run_replayed(*problem) for problem in problems]
    for problem, found in zip(problems, outputs, strict=True):
        expected = lambda p=problem: with_gradients(module.run_eager, p)  # noqa: E731
        rounding.assert_equal((*found, *gradients(found, problem)), expected)
    for problem in (make(M=9, seed=2), make(seed=3, B=5), make(seed=0)):
        assert_equal_to_eager(module, problem)
    assert len(replay._buckets) == 2  # one for each batch size


@pytest.mark.parametrize("loop", LOOPS)
def test_every_copy_into_a_buffer_is_needed(loop, monkeypatch, deterministic):
    """With any one copy left out, the result of a second batch is wrong."""
    module, make, unneeded = LOOPS[loop]
    first, second = make(seed=0), make(seed=1)
    expected = with_gradients(module.run_eager, second)
    copy, made, omitted = torch._foreach_copy_, [0], [-1]

    def counted(to, source):
        left = [i for i in range(len(to)) if made[0] + i != omitted[0]]
        made[0] += len(to)
        copy([to[i] for i in left], [source[i] for i in left])

    monkeypatch.setattr(replay, "torch", SimpleNamespace(**{**vars(torch), "_foreach_copy_": counted}))

    def second_is_right():
        """Compute both batches side by side, with the copies of the second counted from 0."""
        module.run_replayed(*first)
        made[0] = 0
        outputs = module.run_replayed(*second)
        until = made[0]
        made[0] = -(10**6)
        gradients(module.run_replayed(*first), first, seed=2)
        made[0] = until
        found = *outputs, *gradients(outputs, second)
        return all(torch.allclose(x, y, rtol=1e-6, atol=1e-9) for x, y in zip(found, expected, strict=True))

    assert second_is_right()
    copies = made[0]
    needless = []
    for omitted[0] in range(copies):
        if second_is_right():
            needless.append(omitted[0])
    assert len(needless) == unneeded < copies / 8


def test_inference_shares_the_blocks_of_training():
    problem = recurrent()
    with torch.inference_mode():
        plain = recurrence.run_replayed(*problem)
    (bucket,) = replay._buckets.values()
    assert {name for name, _ in bucket.blocks} == {"forward"}  # nothing is captured in vain
    found = recurrence.run_replayed(*problem)
    assert all(torch.equal(x, y) for x, y in zip(plain, found, strict=True))
    expected = with_gradients(recurrence.run_replayed, problem)
    assert all(torch.equal(x, y) for x, y in zip((*found, *gradients(found, problem)), expected, strict=True))


def test_least_used_buffers_are_dropped(monkeypatch):
    monkeypatch.setattr(replay, "MOST", 2)
    for B in (1, 2, 1, 3):
        recurrence.run_replayed(*recurrent(M=3, B=B))
    assert [key[1][6][1] for key in replay._buckets] == [1, 3]  # the batch size in the state's shape


@pytest.mark.parametrize("loop", LOOPS)
def test_replayed_loop_is_checked_at_its_first_use(loop, monkeypatch):
    """The replayed loop is used if graphs are available, unless it differs from the eager form."""
    module, make, _ = LOOPS[loop]
    problem = make(M=4)
    monkeypatch.setattr(module, "compiles", lambda *_: False)
    found = module.run(*problem)
    assert len(replay._buckets) == 1
    assert all(torch.equal(x, y) for x, y in zip(found, module.run_replayed(*problem), strict=True))
    monkeypatch.setattr(first_use, "_found", {})
    wrong = lambda *p: [1.01 * x for x in module.run_eager(*p)]  # noqa: E731
    monkeypatch.setattr(module, "run_replayed", wrong)
    with pytest.warns(UserWarning, match=f"replayed {loop} is turned off, and a slower form is used: result 0 differs"):
        found = module.run(*problem)
    assert all(torch.equal(x, y) for x, y in zip(found, module.run_eager(*problem), strict=True))


class OutOfMemory:
    """A stand-in for captures, the last of which have no memory left."""

    def __init__(self, left):
        self.left = left

    def __call__(self, work, device):
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")
        return Recorded(work, device)


@pytest.mark.parametrize("loop", LOOPS)
def test_later_capture_that_fails_turns_replay_off(loop, monkeypatch):
    """The first batch captures a block forward and one backward, and one of another size fails, also in inference."""
    module, make, _ = LOOPS[loop]
    monkeypatch.setattr(module, "compiles", lambda *_: False)
    monkeypatch.setattr(graphs, "CAPTURES", {"cpu": OutOfMemory(left=2)})
    first, second = make(M=4), make(M=4, B=5)
    pending, expected = module.run(*first), with_gradients(module.run_eager, second)
    message = f"replayed {loop} is turned off, and a slower form is used: OutOfMemoryError: CUDA out of memory.$"
    with torch.inference_mode(), pytest.warns(UserWarning, match=message):
        module.run(*second)
    assert not replay._buckets  # their memory is free for the eager form
    found = with_gradients(module.run, second)  # tries no capture, and warns no more
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    rounding.assert_equal(
        (*pending, *gradients(pending, first)), lambda: with_gradients(module.run_eager, first)
    )  # its backward pass still has its blocks


def test_later_noise_that_is_not_captured_is_drawn(monkeypatch):
    monkeypatch.setattr(graphs, "CAPTURES", {"cpu": OutOfMemory(left=1)})
    keyed_normal(torch.arange(3), 5, 2)
    with pytest.warns(UserWarning, match="replayed noise is turned off"):
        found = keyed_normal(torch.arange(5), 5, 2)
    monkeypatch.setattr(graphs, "CAPTURES", {})
    assert torch.equal(found, keyed_normal(torch.arange(5), 5, 2))


def test_replayed_noise_equals_the_plain_one(monkeypatch):
    """Two draws have the same shape, and their noise must not be a view of the buffers; one has another shape."""
    keys = [(torch.arange(3), 5, 2, 0), (torch.arange(7, 10), 5, 2, 4), (torch.arange(3), 4, 2, torch.arange(3))]
    found = [keyed_normal(*key) for key in keys]
    assert len(replay._calls) == 1
    monkeypatch.setattr(graphs, "CAPTURES", {})
    assert all(torch.equal(x, keyed_normal(*key)) for x, key in zip(found, keys, strict=True))
