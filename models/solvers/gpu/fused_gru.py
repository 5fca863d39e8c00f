"""The recurrent loop with the pointwise arithmetic between two matrix products as one kernel, for `replay`.

Each function below is an operation of torch that writes to its last arguments. On a GPU a Triton kernel of the same
name carries it out (`gru_triton`); elsewhere the function itself does, and tests compare it with the eager form.
Letters are those of `recurrence` and `gru_flow`.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.solvers.gru_flow import GruFlow, GruUpdate


def _operation(*written: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as an operation of torch that writes to the arguments with these names."""

    def registered(reference: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(reference)
        def carried_out(*tensors: Tensor) -> None:
            if tensors[0].device.type == "cuda":
                from models.solvers.gpu import gru_triton  # triton is there with a torch for CUDA

                gru_triton.launch(reference.__name__, tensors)
            else:
                reference(*tensors)

        operation = torch.library.custom_op(f"driftwork::{reference.__name__}", carried_out, mutates_args=written)
        operation.register_fake(lambda *tensors: None)
        return operation

    return registered


@_operation("zr", "rh")
def gru_gates(zr: Tensor, h: Tensor, rh: Tensor) -> None:
    """Apply the gates z and r to their arguments `zr`, in place, and write r h."""
    torch.mul(zr.sigmoid_().chunk(2, -1)[1], h, out=rh)


@_operation("g", "out")
def gru_flow_step(zr: Tensor, h: Tensor, dt: Tensor, g: Tensor, out: Tensor) -> None:
    """Apply tanh to `g`, in place, and write h + dt (1 - z) (g - h)."""
    z, _ = zr.chunk(2, -1)
    out.copy_(h + dt * (1 - z) * (g.tanh_() - h))


@_operation("rzu", "n", "out")
def gru_cell(x: Tensor, h: Tensor, observe: Tensor, rzu: Tensor, n: Tensor, out: Tensor) -> None:
    """Apply the gates r and z to the first parts of x + u, in place of u, and write n and the next state."""
    H = h.shape[-1]
    r, z = rzu[..., : 2 * H].add_(x[..., : 2 * H]).sigmoid_().chunk(2, -1)
    n.copy_(torch.tanh(x[..., 2 * H :] + r * rzu[..., 2 * H :]))
    out.copy_(h + observe * (1 - z) * (n - h))


@_operation("d_u", "d_n", "out")
def gru_cell_back(
    delta: Tensor, incoming: Tensor, rzu: Tensor, n: Tensor, h: Tensor, observe: Tensor, d_u: Tensor, d_n: Tensor,
    out: Tensor,
) -> None:  # fmt: skip
    """Write the gradients of u and n, and the gradient of the state before, without the part through u."""
    (r, z, u), d = rzu.chunk(3, -1), delta + incoming
    toward = observe * (1 - z)
    d_n.copy_(d * toward * (1 - n * n))
    d_u.copy_(torch.cat([d_n * u * r * (1 - r), d * observe * (h - n) * z * (1 - z), d_n * r], -1))
    out.copy_(d * (1 - toward))


@_operation("d_zr", "d_g", "out")
def gru_flow_step_back(
    delta: Tensor, incoming: Tensor, zr: Tensor, g: Tensor, h: Tensor, dt: Tensor, d_zr: Tensor, d_g: Tensor,
    out: Tensor,
) -> None:  # fmt: skip
    """Write the gradients of the arguments of z and g, and the gradient of the state before, without the part that
    passes through these arguments."""
    z, d = zr.chunk(2, -1)[0], delta + incoming
    d_g.copy_(d * dt * (1 - z) * (1 - g * g))
    d_zr.chunk(2, -1)[0].copy_(d * dt * (h - g) * z * (1 - z))
    out.copy_(d * (1 - dt * (1 - z)))


@_operation("d_zr", "out")
def gru_gates_back(d_rh: Tensor, zr: Tensor, h: Tensor, d_zr: Tensor, out: Tensor) -> None:
    """Write the gradient of the argument of r, and add to that of the state before its part through r h."""
    r = zr.chunk(2, -1)[1]
    d_zr.chunk(2, -1)[1].copy_(d_rh * h * r * (1 - r))
    out.addcmul_(d_rh, r)


class FusedGruFlow(GruFlow):
    """`GruFlow` with three products and three kernels per step."""

    def __init__(self, weights: Sequence[Tensor], dt: Tensor, kept: Sequence[Tensor] = ()) -> None:
        super().__init__(weights, dt, kept)
        self.rh = torch.empty_like(self.g[0])

    def forward(self, m: int, h: Tensor, out: Tensor) -> Tensor:
        zr = self.gates(h, out=self.zr[m])
        gru_gates(zr, h, self.rh)
        gru_flow_step(zr, h, self.dt[m], self.candidate(self.rh, out=self.g[m]), out)
        return out

    def open(self, steps: slice, start: Tensor) -> None:
        zr, g = self.zr[steps], self.g[steps]
        self.block = self.dt[steps], zr, g
        self.start, self.rh = start, zr.chunk(2, -1)[1] * start
        self.d_zr, self.d_g = torch.empty_like(zr), torch.empty_like(g)

    def backward(self, i: int, delta: Tensor, incoming: Tensor) -> Tensor:
        (dt, zr, g), h, d_zr, d_g = (x[i] for x in self.block), self.start[i], self.d_zr[i], self.d_g[i]
        before = torch.empty_like(h)
        gru_flow_step_back(delta, incoming, zr, g, h, dt, d_zr, d_g, before)
        gru_gates_back(self.candidate.back(d_g), zr, h, d_zr, before)
        return self.gates.back_onto(before, d_zr)


class FusedGruUpdate(GruUpdate):
    """`GruUpdate` with one product and one kernel per step."""

    def forward(self, m: int, h: Tensor, x: Tensor, out: Tensor) -> Tensor:
        gru_cell(x, h, self.observe[m], self.recurrent(h, out=self.rzu[m]), self.n[m], out)
        return out

    def open(self, steps: slice, before: Tensor) -> None:
        rzu, n = self.rzu[steps], self.n[steps]
        self.block, self.before = (rzu, n, before, self.observe[steps]), before
        self.d_u, self.d_n = torch.empty_like(rzu).unflatten(-1, (3, self.H)), torch.empty_like(n)

    def backward(self, i: int, delta: Tensor, incoming: Tensor, observed: bool) -> Tensor:
        d_u, before = self.d_u[i].flatten(-2), torch.empty_like(delta)
        gru_cell_back(delta, incoming, *(x[i] for x in self.block), d_u, self.d_n[i], before)
        return self.recurrent.back_onto(before, d_u)
