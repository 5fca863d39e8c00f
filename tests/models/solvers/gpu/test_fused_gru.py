"""The GPU kernels of the recurrent loop, run by Triton's interpreter on a CPU.

`test_replay` compares their formulas with the eager form, and `test_fused_flow` compiles them for GPUs."""

from importlib.util import find_spec

import pytest
import torch

from models.solvers.gpu import fused_gru

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="pip install -e '.[triton]'")

ARGUMENTS = {
    "gru_gates": (2, 1, 1),
    "gru_flow_step": (2, 1, 0, 1, 1),
    "gru_cell": (3, 1, 0, 3, 1, 1),
    "gru_cell_back": (1, 1, 3, 1, 1, 0, 3, 1, 1),
    "gru_flow_step_back": (1, 1, 2, 1, 1, 0, 2, 1, 1),
    "gru_gates_back": (1, 2, 1, 2, 1),
}
"""Numbers in a row of each argument, as multiples of H; 0 for a single one."""


@pytest.fixture
def kernels():
    from models.solvers.gpu import gru_triton

    return gru_triton


@needs_triton
@pytest.mark.parametrize("H", [20, 64])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_kernel_equals_its_formula(kernels, name, H):
    """All tensors are compared: inputs, which stay as they are, and outputs, written in place or anew."""
    g = torch.Generator().manual_seed(0)
    expected = [torch.randn(2, 3, width * H or 1, generator=g) for width in ARGUMENTS[name]]
    found = [x.clone() for x in expected]
    getattr(fused_gru, name)(*expected)
    kernels.launch(name, tuple(found))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5 * float(y.abs().max()))


@needs_triton
def test_each_operation_has_a_kernel(kernels):
    assert set(kernels.KERNELS) == set(ARGUMENTS)
