"""The loop of `flow` as two operations of torch, implemented by Triton kernels (`flow_triton`).

They are registered with their output shapes, so that torch can trace and count them without a GPU.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from models.solvers.affine import weight_gradient

Coefficients = tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]
"""Type of the coefficients (a, b) of a Runge-Kutta step, see `flow.Tableau`."""

WIDEST = 128
"""Largest number of hidden units that the kernels support, since registers hold the matrices of a network."""
MOST_STATES = 64
"""Largest number of components of a position or velocity that the kernels support."""


DEVICES = {"cuda"}
"""Types of devices that the kernels run on."""


def covers(z0: Tensor, H: int, lead: int) -> bool:
    """Return whether the kernels support states z0 [G, P, Z], H hidden units and `lead` positions (see `flow`)."""
    outputs = z0.shape[-1] - lead
    covered = z0.device.type in DEVICES and z0.dtype == torch.float32
    return covered and H <= WIDEST and outputs <= MOST_STATES and lead in (0, outputs)


def run(
    z0: Tensor, weights: tuple[Tensor, ...], K: Tensor, dt: Tensor, tableau: Coefficients, activation: str,
    slope: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the states [M, G, P, Z] and the integrals of the trace [M, G, P]; the arguments are those of `flow.run`.

    `slope` is the activation's derivative as a function of its value, K the `flow.trace_matrix`."""
    states, trace = _Fused.apply(z0, *weights, K, dt, tableau, activation, slope)
    return states, trace


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, z0: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, W3: Tensor, b3: Tensor, K: Tensor,
        dt: Tensor, tableau: Coefficients, activation: str, slope: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        matrices, biases = [x.mT.contiguous() for x in (W1, W2, W3, K)], [x.contiguous() for x in (b1, b2, b3)]
        network = [matrices[0], biases[0], matrices[1], biases[1], matrices[2], biases[2], matrices[3]]
        dt, coefficients = dt.contiguous(), coefficients_of(tableau)
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        states, trace, *rows = flow_forward(
            z0.contiguous(), dt, network, len(tableau[1]), coefficients, activation, keep
        )
        ctx.save_for_backward(dt, W1, W2, W3, K, *rows)
        ctx.scheme, ctx.slope = (len(tableau[1]), coefficients, activation), slope  # type: ignore[attr-defined]
        return states, trace

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_trace: Tensor) -> tuple[Tensor | None, ...]:
        dt, W1, W2, W3, K, z, *rows = ctx.saved_tensors  # type: ignore[attr-defined]
        network = [x.contiguous() for x in (W1, W2, W3, K)]
        incoming = d_states.contiguous(), d_trace.contiguous()
        d_z0, d_f, d_u1, d_u2, d_t = flow_backward(dt, network, rows, *incoming, *ctx.scheme)  # type: ignore[attr-defined]
        a1, a2, _ = rows
        d_W1, d_b1 = weight_gradient(d_u1, z)
        d_W2, d_b2 = weight_gradient(d_u2, a1)
        d_W3, d_b3 = weight_gradient(d_f, a2)
        d_K, _ = weight_gradient(d_t, ctx.slope(a1))  # type: ignore[attr-defined]
        return d_z0, d_W1, d_b1, d_W2, d_b2, d_W3, d_b3, d_K, None, None, None, None


def coefficients_of(tableau: Coefficients) -> list[float]:
    """Return a10, a20, a21, a30, a31, a32, b0, ..., b3; 0 for stages that the scheme does not have."""
    a, b = tableau
    rows = [*a, *[()] * (4 - len(a))]
    below = [c for r in range(1, 4) for c in (*rows[r], *[0.0] * (r - len(rows[r])))]
    return [*below, *b, *[0.0] * (4 - len(b))]


@torch.library.custom_op("driftwork::flow_forward", mutates_args=())
def flow_forward(
    z0: Tensor, dt: Tensor, network: list[Tensor], stages: int, coefficients: list[float], activation: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return states, traces and, if `keep` is set, the z, a1, a2 and t = K a1' of all stages, [M, R, G, P,
    ...]."""
    outputs = _forward_outputs(z0, dt, network, stages, coefficients, activation, keep)
    flow_triton().launch_forward(z0, dt, network, outputs, stages, coefficients, activation, keep)
    return outputs


@torch.library.custom_op("driftwork::flow_backward", mutates_args=())
def flow_backward(
    dt: Tensor, network: list[Tensor], rows: list[Tensor], d_states: Tensor, d_trace: Tensor, stages: int,
    coefficients: list[float], activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of z0, and of f, u1, u2 and t of all stages; `rows` are a1, a2 and t."""
    outputs = _backward_outputs(dt, network, rows, d_states, d_trace, stages, coefficients, activation)
    incoming = *rows, d_states, d_trace
    flow_triton().launch_backward(dt, network, incoming, outputs, stages, coefficients, activation)
    return outputs


@flow_forward.register_fake
def _forward_outputs(
    z0: Tensor, dt: Tensor, network: list[Tensor], stages: int, coefficients: list[float], activation: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (G, P, Z), M, H = z0.shape, len(dt), network[2].shape[1]
    R = stages if keep else 0
    z, a1, a2, t = (z0.new_empty(M, R, G, P, n) for n in (Z, H, H, H))
    return z0.new_empty(M, G, P, Z), z0.new_empty(M, G, P), z, a1, a2, t


@flow_backward.register_fake
def _backward_outputs(
    dt: Tensor, network: list[Tensor], rows: list[Tensor], d_states: Tensor, d_trace: Tensor, stages: int,
    coefficients: list[float], activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    a1, outputs = rows[0], network[2].shape[1]
    M, R, G, P, _ = a1.shape
    d_u1, d_u2, d_t = (torch.empty_like(a1) for _ in range(3))
    return d_states.new_empty(d_states.shape[1:]), a1.new_empty(M, R, G, P, outputs), d_u1, d_u2, d_t


def flow_triton() -> ModuleType:
    """Return the module of the kernels, which is imported at the first launch."""
    from models.solvers.gpu import flow_triton

    return flow_triton
