"""The GPU kernels of ODE2VAE's loop, run by Triton's interpreter on a CPU; those of all loops, compiled for two
generations of GPUs."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.solvers import flow
from models.solvers.flow import ACTIVATIONS, TABLEAUS
from models.solvers.gpu import first_use, fused_flow
from tests.models.solvers.gpu.test_fused_gru import ARGUMENTS
from tests.models.solvers.test_flow import problem, with_gradients

ROOT = Path(__file__).parents[4]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="pip install -e '.[triton]'")


@needs_triton
@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(2, 1, 3, 30, 4, True), (1, 2, 3, 17, 4, False), (1, 2, 16, 100, 2, True)])
def test_kernels_match_the_eager_form(method, activation, sizes):
    """Values and gradients match, with steps of length 0 and several trajectories of a network among them."""
    z0, weights, dt = problem(*sizes)
    expected = with_gradients(flow.run_eager, z0, weights, dt, method, activation)
    found = with_gradients(flow.run_fused, z0, weights, dt, method, activation)
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5 * float(y.detach().abs().max()))


@needs_triton
def test_kernel_values_are_equal_without_gradients():
    z0, weights, dt = problem()
    found = flow.run_fused(z0, weights, dt, "rk4", "tanh")
    with torch.no_grad():
        plain = flow.run_fused(z0, weights, dt, "rk4", "tanh")
    assert all(torch.equal(x, y) for x, y in zip(found, plain, strict=True))


@needs_triton
@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("architecture", [80, 90])
def test_kernels_compile_for_gpus(architecture, tmp_path):
    """The assembler in Triton's wheel compiles the kernels to machine code without a GPU. This needs a separate
    process, since the interpreter changes triton's language for good.
    """
    command = [sys.executable, "-m", "tests.models.solvers.gpu.gpu_code", str(architecture)]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {name: int(size) for name, size in map(str.split, done.stdout.splitlines())}  # bytes
    loops = {"forward", "backward", "sde_forward", "sde_backward"}
    assert set(found) == {*loops, *ARGUMENTS}
    assert all(size > (10_000 if name in loops else 2_000) for name, size in found.items())


def test_shapes_are_known_without_a_gpu():
    """The shapes that torch derives are those that the eager form returns."""
    z0, weights, dt = problem(2, 3)
    expected = flow.run_eager(z0, weights, dt, "rk4", "tanh")
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = flow.run_fused(z0, weights, dt, "rk4", "tanh")
    assert [x.shape for x in found] == [x.shape for x in expected]


def test_kernels_cover_narrow_networks_in_single_precision(monkeypatch):
    z0, weights, _ = problem(H=30)
    assert not fused_flow.covers(z0, 30, weights.lead)  # on a CPU
    monkeypatch.setattr(fused_flow, "DEVICES", {"cpu"})
    assert fused_flow.covers(z0, 30, weights.lead)
    assert not fused_flow.covers(z0, fused_flow.WIDEST + 1, weights.lead)
    assert not fused_flow.covers(z0.double(), 30, weights.lead)


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the fused form be chosen for tensors on a CPU, for which there is no compiled one."""
    monkeypatch.setattr(flow, "compiles", lambda z0, weights: False)
    monkeypatch.setattr(fused_flow, "DEVICES", {"cpu"})
    monkeypatch.setattr(first_use, "_found", {})


def nearly_eager(z0, weights, dt, method, activation):
    """Return the result of a working kernel: that of the eager form up to rounding."""
    found = flow.run_eager(z0, weights, dt, method, activation)
    return found._replace(states=(1 + 1e-6) * found.states)


def slightly_wrong(z0, weights, dt, method, activation):
    return flow.Flow(*(1.01 * x for x in flow.run_eager(z0, weights, dt, method, activation)))


def does_not_compile(*arguments):
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("form", "message"), [(slightly_wrong, "result 0 differs by"), (does_not_compile, "RuntimeError: no kernel image")]
)
def test_faulty_kernel_is_turned_off_once(on_cpu, monkeypatch, form, message):
    z0, weights, dt = problem()
    monkeypatch.setattr(flow, "run_fused", form)
    with pytest.warns(UserWarning, match=f"fused flow is turned off, and a slower form is used: {message}"):
        found = flow.run(z0, weights, dt, "rk4", "tanh")
    monkeypatch.setattr(flow, "run_fused", None)  # not tried again
    again = flow.run(z0, weights, dt, "rk4", "tanh")
    expected = flow.run_eager(z0, weights, dt, "rk4", "tanh")
    assert all(torch.equal(x, y) for one in (found, again) for x, y in zip(one, expected, strict=True))


def test_agreeing_kernel_is_used(on_cpu, monkeypatch):
    z0, weights, dt = problem()
    monkeypatch.setattr(flow, "run_fused", nearly_eager)
    found, eager = flow.run(z0, weights, dt, "rk4", "tanh"), flow.run_eager(z0, weights, dt, "rk4", "tanh")
    assert torch.equal(found.states, eager.states * (1 + 1e-6))


@pytest.mark.filterwarnings("error")
def test_kernel_may_be_checked_in_inference(on_cpu, monkeypatch):
    """An evaluation has tensors that autograd refuses; its first batch is checked like one of training."""
    monkeypatch.setattr(flow, "run_fused", nearly_eager)
    with torch.inference_mode():
        z0, weights, dt = problem()
        z0, dt, weights = z0.clone(), dt.clone(), flow.Weights(*(w.clone() for w in weights))
        found, eager = flow.run(z0, weights, dt, "rk4", "tanh"), flow.run_eager(z0, weights, dt, "rk4", "tanh")
    assert torch.equal(found.states, eager.states * (1 + 1e-6))


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_non_finite_result_is_not_compared(value):
    """If the reference overflows, its other results are compared all the same."""
    inputs = [torch.tensor([value, 1.0, 2.0])]
    assert first_use._problem(lambda x: [x[0] + 1e-6], lambda x: [x[0]], inputs) is None
    assert first_use._problem(lambda x: [x[0] + 0.1], lambda x: [x[0]], inputs) == (
        "result 0 differs by 0.1, more than 0.002"
    )
