"""h -> h W^T + b inside a loop with a hand-derived backward: independent ones side by side."""

import torch
from torch import Tensor


class Affine:
    """The product of a step, its transpose, and the gradient of the weights, summed over blocks of steps.

    Args:
        weight: [R, out, in]. bias: [R, 1, out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self._transposed = weight.transpose(1, 2)
        self.gradients = (torch.zeros_like(weight), torch.zeros_like(bias))

    def __call__(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """[R, B, in] -> [R, B, out]."""
        return torch.baddbmm(self.bias, h, self._transposed, out=out)

    def back(self, d_out: Tensor) -> Tensor:
        """[R, B, out] -> [R, B, in]."""
        return torch.bmm(d_out, self.weight)

    def back_onto(self, total: Tensor, d_out: Tensor) -> Tensor:
        """Add `back` to `total` in place."""
        return total.baddbmm_(d_out, self.weight)

    def accumulate(self, d_out: Tensor, inputs: Tensor) -> None:
        """Add a block of steps, [K, R, B, out] and [K, R, B, in], to `gradients`."""
        weight_gradient(d_out, inputs, self.gradients)


def weight_gradient(d_out: Tensor, inputs: Tensor, total: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """The sum over steps and rows of the outer products of [..., R, B, out] and [..., R, B, in] as one product,
    [R, out, in], and of the bias, [R, 1, out]; added in place to `total` if there is one."""
    d_out, inputs = by_network(d_out), by_network(inputs)
    if total is None:
        R, _, out = d_out.shape
        total = d_out.new_zeros(R, out, inputs.shape[-1]), d_out.new_zeros(R, 1, out)
    d_weight, d_bias = total
    d_weight.baddbmm_(d_out.mT, inputs)  # a sum of its own would be another pass over the weights at every block
    d_bias += d_out.sum(1, keepdim=True)
    return total


def by_network(x: Tensor) -> Tensor:
    """[..., R, B, n] -> [R, all rows, n], so that what one of R does at all steps is one matrix product."""
    return x.movedim(-3, 0).flatten(1, -2)
