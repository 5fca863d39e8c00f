"""Compile the kernels without a GPU: `python -m tests.models.solvers.gpu.gpu_code ARCHITECTURE`."""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.solvers.flow import TABLEAUS
from models.solvers.gpu import flow_triton, fused_flow, gru_triton, sde_triton

H, Q, Z = 30, 3, 6


def compiled(kernel, architecture, **options):
    """Return the machine code of a kernel of ODE2VAE for the published sizes."""
    scheme = TABLEAUS["rk4"]
    coefficients = fused_flow.coefficients_of(scheme)
    fixed = {**flow_triton.constants(H, Q, Z, len(scheme.b), coefficients, "tanh"), **options}
    kinds = dict.fromkeys("MNPQHZ", "i32") | dict.fromkeys(fixed, "constexpr")
    return code(kernel, architecture, kinds, fixed, flow_triton.warps(H))


def sde_code(kernel, architecture, **options):
    """Return the machine code of a kernel of VSDN-SDE for the published sizes: two networks, 16 paths, and sizes and
    addresses that are multiples of 16."""
    fixed = {**sde_triton.constants(2, 16, (1,)), **options}
    kinds = dict.fromkeys("MPZWL", "i32") | dict.fromkeys(("bound", "low", "high"), "fp32") | {"arrived": "*i32"}
    kinds |= dict.fromkeys(fixed, "constexpr")
    multiples = [x for x in kernel.arg_names if x in "MPZW" or kinds.get(x, "*").startswith("*")]
    return code(kernel, architecture, kinds, fixed, 4, multiples, launch_cooperative_grid=True)


def code(kernel, architecture, kinds, fixed, warps, multiples=(), **options):
    """Return the machine code of a kernel; arguments without a kind are pointers to single precision, and `multiples`
    are arguments that are multiples of 16."""
    signature = {argument: kinds.get(argument, "*fp32") for argument in kernel.arg_names}
    divisible = {(kernel.arg_names.index(argument),): [["tt.divisibility", 16]] for argument in multiples}
    source = ASTSource(kernel, signature=signature, constexprs=fixed, attrs=divisible)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, **options}).asm["cubin"]


if __name__ == "__main__":
    architecture = int(sys.argv[1])
    print("forward", len(compiled(flow_triton.forward, architecture, KEEP=True)))
    print("backward", len(compiled(flow_triton.backward, architecture)))
    print("sde_forward", len(sde_code(sde_triton.forward, architecture, KEEP=True)))
    print("sde_backward", len(sde_code(sde_triton.backward, architecture)))
    for name, kernel in gru_triton.KERNELS.items():  # 512 units
        print(name, len(code(kernel, architecture, {"H": "i32", "BLOCK": "constexpr"}, {"BLOCK": 512}, 4)))
