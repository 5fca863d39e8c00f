"""The setting `loops`, and the report of a fast form that is turned off."""

import pytest
import torch

from models.solvers import flow, recurrence, sde_loop
from models.solvers.choice import set_loops
from models.solvers.gpu import first_use, fused_flow, fused_sde
from models.solvers.gru_flow import GruFlow
from models.solvers.sde_loop import Shape, Weights
from tests.models.solvers import test_flow

one, two, start = torch.ones(1, 1, 1), torch.ones(1, 2, 1), torch.zeros(1, 2, 1)
LOOPS = {
    "ODE2VAE": (flow, (*test_flow.problem(), "rk4", "tanh")),
    "VSDN-SDE": (sde_loop, (start[0], start[None], Weights(one, (), (), two, start.mT), two, two,
                            Shape(1.0, 0.1, 1.0, (0,)))),
    "recurrent state": (recurrence, (start, torch.zeros(1, 1, 2, 3), GruFlow, (two, two.mT, one, one),
                                     (torch.ones(1, 3, 1), torch.ones(1, 1, 3)), two[None], two[None])),
}  # fmt: skip


@pytest.fixture
def eager():
    set_loops("eager")
    yield
    set_loops("auto")


@pytest.mark.parametrize("loop", LOOPS)
def test_faster_form_is_taken_by_default(loop, monkeypatch):
    module, problem = LOOPS[loop]
    monkeypatch.setattr(module, "run_compiled", lambda *arguments: "compiled")
    assert module.run(*problem) == "compiled"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_eager_setting_takes_no_other_form(loop, on_gpu, monkeypatch, eager):
    module, problem = LOOPS[loop]
    for form in ("run_compiled", "run_fused"):
        monkeypatch.setattr(module, form, None, raising=False)
    for kernels in (fused_flow, fused_sde):
        monkeypatch.setattr(kernels, "DEVICES", {"cpu"} if on_gpu else set())
    found, expected = module.run(*problem), module.run_eager(*problem)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_turned_off_form_is_reported_once(monkeypatch):
    monkeypatch.setattr(first_use, "_found", {})
    monkeypatch.setattr(first_use, "_report", None)
    reports = []
    first_use.report_to(lambda *report: reports.append(report))
    for _ in range(2):
        assert not first_use.trusted("some form", 0, lambda x: [2 * x[0]], lambda x: [x[0]], [torch.ones(2)])
    assert reports == [("some form", "result 0 differs by 1, more than 0.001")]
