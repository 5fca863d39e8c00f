"""The GPU kernels of VSDN-SDE's loop, run by Triton's interpreter on a CPU.

`test_fused_flow` compiles them for GPUs."""

import threading
from collections import Counter
from importlib.util import find_spec

import pytest
import torch

from models.solvers import sde_loop
from models.solvers.gpu import first_use, fused_sde, graphs, replay
from tests import rounding
from tests.models.solvers import test_sde_loop
from tests.models.solvers.test_sde_loop import NETWORKS, formula, leaves_of, with_gradients

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="pip install -e '.[triton]'")


def single(networks, M=5, P=11, Z=9, W=20):
    """Return a problem in single precision; the last paths, units and components fill no tile."""
    x0, pre, weights, *rest, shape, informed = test_sde_loop.problem(*networks, M=M, P=P, Z=Z, W=W)

    def leaf(x):
        return x.detach().float().requires_grad_()

    hidden, biases = (tuple(map(leaf, layers)) for layers in (weights.hidden, weights.biases))
    weights = weights._replace(A=leaf(weights.A), hidden=hidden, biases=biases, V=leaf(weights.V), c=leaf(weights.c))
    data = [x if x is None else x.float() for x in (*rest, informed)]
    return leaf(x0), leaf(pre), weights, *data[:2], shape, data[2]


@pytest.fixture
def kernels():
    from models.solvers.gpu import sde_triton

    return sde_triton


@pytest.mark.parametrize("networks", NETWORKS, ids=str)
def test_kernels_match_the_formula(networks):
    case = single(networks)
    found = with_gradients(sde_loop.run_fused, case)
    rounding.assert_equal(found, lambda: with_gradients(formula, case))
    assert torch.equal(found[0][4:, 2], found[0][3, 2].expand(1, -1))  # a path that has ended


@pytest.mark.parametrize("sizes", [{"P": 3, "Z": 1, "W": 1}, {"P": 17, "Z": 33, "W": 40}, {"M": 1, "P": 16, "W": 16}])
def test_kernels_support_any_size(sizes):
    case = single((2, (0, 1), 2), **{"M": 3, **sizes})
    rounding.assert_equal(with_gradients(sde_loop.run_fused, case), lambda: with_gradients(formula, case))


@pytest.fixture
def three(kernels, monkeypatch):
    """Provide a function that lets launches have three programs, which run by turns, and returns the launch."""
    from tests.models.solvers.gpu.programs import ByTurns

    plain = kernels.launch

    def ordered(reverse):
        monkeypatch.setattr(kernels, "launch", launch := ByTurns(plain, 3, reverse))
        return launch

    return ordered


@pytest.mark.parametrize("reverse", [False, True])
def test_programs_share_the_work_of_a_phase(three, reverse):
    """Three programs compute bit for bit what one program does."""
    case = single((2, (1,), 3), M=3, W=40)
    expected = with_gradients(sde_loop.run_fused, case)
    launch = three(reverse)
    found = with_gradients(sde_loop.run_fused, case)
    assert launch.polls >= 2 * 3 * 4 * 3  # forward and backward, steps, phases, programs
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["forward", "backward"])
@pytest.mark.parametrize("phase", range(3))
def test_every_barrier_is_needed(kernels, three, monkeypatch, deterministic, kernel, phase):
    """If the programs do not wait for each other after one of the phases of a step, results are wrong in one of their
    orders."""
    case = single((2, (1,), 2), M=2, P=3, Z=20, W=40)
    expected, meet, wrong = with_gradients(sde_loop.run_fused, case), kernels.meet, []
    for reverse in (False, True):
        launch, met = three(reverse), Counter()

        def others(arrived, expected, launch=launch, met=met):
            """Meet after all phases but `phase`; the expected number of arrivals leaves those of `phase` out."""
            one = launch.kernel, threading.get_ident()
            missing = (met[one] - phase + 2) // 3 if launch.kernel is getattr(kernels, kernel) else 0
            if launch.kernel is not getattr(kernels, kernel) or met[one] % 3 != phase:
                meet(arrived, expected - launch.count * missing)
            met[one] += 1

        monkeypatch.setattr(kernels, "meet", others)
        found = with_gradients(sde_loop.run_fused, case)
        wrong += [not torch.equal(x, y) for x, y in zip(found, expected, strict=True)]
        monkeypatch.setattr(kernels, "meet", meet)
    assert any(wrong)


def test_waiting_in_vain_spoils_the_result(kernels, monkeypatch):
    """A program that waits for another one that never arrives gives up, and the result is NaN."""
    from tests.models.solvers.gpu.programs import builder, number

    monkeypatch.setattr(kernels, "PATIENCE", type(kernels.PATIENCE)(3))
    monkeypatch.setattr(builder, "create_get_num_programs", lambda axis: number(2))
    case = single((1, (0,), 1), M=2)
    states, outputs = sde_loop.run_fused(*case)
    assert states[-1].isnan().all()
    (d_x0,) = torch.autograd.grad(outputs.sum(), leaves_of(*case)[:1])
    assert d_x0.isnan().all()


def test_values_are_equal_without_gradients():
    case = single((2, (0, 1), 2))
    found = sde_loop.run_fused(*case)
    with torch.no_grad():
        plain = sde_loop.run_fused(*case)
    assert all(torch.equal(x, y) for x, y in zip(found, plain, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_kernels_hide_no_non_finite_number(value):
    case = single((2, (1,), 2))
    for changed in leaves_of(*case):
        with torch.no_grad():
            before = changed.view(-1)[0].item()
            changed.view(-1)[0] = value
            eager, found = sde_loop.run_eager(*case), sde_loop.run_fused(*case)
            changed.view(-1)[0] = before
        assert all(torch.equal(x.isfinite(), y.isfinite()) for x, y in zip(eager, found, strict=True))


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the forms of a GPU be chosen for tensors on a CPU, for which there is no compiled one."""
    monkeypatch.setattr(sde_loop, "compiles", lambda *_: False)
    monkeypatch.setattr(fused_sde, "DEVICES", {"cpu"})
    monkeypatch.setattr(first_use, "_found", {})


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.filterwarnings("error:.*turned off")
def test_few_paths_take_the_fused_form(on_cpu, inference):
    """The fused form agrees with the eager form at its first use, which may be in an evaluation."""
    with torch.inference_mode(inference):
        case = single((2, (1,), 1), M=2)
        found, fused, eager = (form(*case) for form in (sde_loop.run, sde_loop.run_fused, sde_loop.run_eager))
    assert all(torch.equal(x, y) for x, y in zip(found, fused, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(found, eager, strict=True))


def test_kernels_cover_few_paths_in_single_precision(on_cpu):
    case = single((2, (1,), 1), M=2)
    assert fused_sde.covers(case[0])
    assert not fused_sde.covers(case[0].double())
    assert not fused_sde.covers(case[0].new_empty(fused_sde.MOST_PATHS + 1, 9))


def test_replay_takes_over_from_kernels_that_fail(on_cpu, monkeypatch):
    def does_not_compile(*arguments):
        raise RuntimeError("no kernel image is available")

    case, taken = single((2, (1,), 1), M=2), []
    monkeypatch.setattr(graphs, "CAPTURES", {"cpu": None})
    monkeypatch.setattr(sde_loop, "run_fused", does_not_compile)
    monkeypatch.setattr(sde_loop, "run_replayed", lambda *case: taken.append(1) or sde_loop.run_eager(*case))
    with pytest.warns(
        UserWarning, match="fused SDE loop is turned off, and a slower form is used: RuntimeError: no kernel"
    ):
        sde_loop.run(*case)
    assert len(taken) == 2  # to be checked, and for its result
    assert replay.covers(case[0])
