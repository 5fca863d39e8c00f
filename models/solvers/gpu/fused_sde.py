"""The loop of `sde_loop` as two operations of torch, implemented by Triton kernels (`sde_triton`).

They write to their last arguments, so that torch can count them without a GPU.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

DEVICES = {"cuda"}
"""Types of devices that the kernels run on."""
MOST_PATHS = 64
"""Largest number of paths that the kernels support, since a program's registers hold the rows of all of them."""


def covers(x0: Tensor) -> bool:
    """Return whether the kernels support states x0 [P, Z]."""
    return x0.device.type in DEVICES and x0.dtype == torch.float32 and len(x0) <= MOST_PATHS


def rows(x0: Tensor) -> int:
    """Return the number of paths that the kernels are compiled for: a power of two."""
    return max(1 << (len(x0) - 1).bit_length(), 16)


class Fused(torch.autograd.Function):
    """The loop for data dt and informed [M, P, 1], noise [M, P, Z]; scales are bound, low and high."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, scales: Sequence[float], driver: Sequence[int], dt: Tensor, noise: Tensor, informed: Tensor,
        x0: Tensor, pre: Tensor, A: Tensor, V: Tensor, c: Tensor, *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (M, G, P, W), Z, L = pre.shape, x0.shape[1], len(layers) // 2
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        path, u = x0.new_empty(1 + M, P, Z), x0.new_empty(M, G, P, 2 * Z)
        a = x0.new_empty(L + 1, G, M if keep else 1, P, W)
        path[0] = x0
        data = [x.contiguous() for x in (dt, noise, informed)]
        hidden, biases = _stacked([w.mT for w in layers[:L]], A), _stacked(layers[L:], c)
        network = [A.mT.contiguous(), hidden, biases, V.mT.contiguous(), c.contiguous()]
        arrived = torch.zeros(1, dtype=torch.int32, device=x0.device)
        sde_forward([pre.contiguous(), *data, *network], [path, u, a, arrived], scales, driver)
        ctx.save_for_backward(path, u, a, *data, A, V, *layers[:L])
        ctx.scheme = scales, driver  # type: ignore[attr-defined]
        return path[1:], u

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        path, u, a, *data, A, V = ctx.saved_tensors[:8]  # type: ignore[attr-defined]
        hidden = ctx.saved_tensors[8:]  # type: ignore[attr-defined]
        M, G, P, _ = u.shape
        network = [A.contiguous(), _stacked(hidden, A), V.contiguous()]
        incoming = [d_states.contiguous(), d_outputs.contiguous()]
        delta, d_u, d_a = torch.zeros_like(path[0]), u.new_empty(G, M, *u.shape[2:]), torch.empty_like(a)
        arrived = torch.zeros(1, dtype=torch.int32, device=u.device)
        sde_backward([*data, *network, u, a, *incoming], [delta, d_u, d_a, arrived], *ctx.scheme)  # type: ignore[attr-defined]
        (of_u, starts), (of_a, rows) = (d_u.flatten(1, 2), path[:-1].flatten(0, 1)), (x.flatten(2, 3) for x in (d_a, a))
        d_A, d_V = of_a[0].mT @ starts, of_u.mT @ rows[-1]
        d_hidden, d_biases = of_a[1:].mT @ rows[:-1], of_a[1:].sum(2, keepdim=True)
        d_pre = d_a[0].transpose(0, 1)
        d_c = of_u.sum(1, keepdim=True)
        return None, None, None, None, None, delta, d_pre, d_A, d_V, d_c, *d_hidden.unbind(), *d_biases.unbind()


def _stacked(layers: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the layers as one tensor, or another one that is not read if there are none."""
    return torch.stack(tuple(layers)) if layers else like


@torch.library.custom_op("driftwork::sde_forward", mutates_args=("outputs",))
def sde_forward(inputs: list[Tensor], outputs: list[Tensor], scales: list[float], driver: list[int]) -> None:
    """Write path, u, a and the counter of arrivals, from the other arguments of `sde_triton.forward`."""
    kernels, (path, u, a, _) = sde_triton(), outputs
    fixed = kernels.constants(u.shape[1], rows(path[0]), driver)
    kernels.launch(kernels.forward, [*inputs, *outputs], u, a, scales, **fixed, KEEP=a.shape[2] == len(u))


@torch.library.custom_op("driftwork::sde_backward", mutates_args=("outputs",))
def sde_backward(inputs: list[Tensor], outputs: list[Tensor], scales: list[float], driver: list[int]) -> None:
    """Write the gradients of x0, u and a, and the counter, from the other arguments of `sde_triton.backward`."""
    kernels, u, a = sde_triton(), inputs[6], inputs[7]
    fixed = kernels.constants(u.shape[1], rows(outputs[0]), driver)
    kernels.launch(kernels.backward, [*inputs, *outputs], u, a, scales, **fixed)


for operation in (sde_forward, sde_backward):
    operation.register_fake(lambda inputs, outputs, scales, driver: None)


def sde_triton() -> ModuleType:
    """Return the module of the kernels, which is imported at the first launch."""
    from models.solvers.gpu import sde_triton

    return sde_triton
