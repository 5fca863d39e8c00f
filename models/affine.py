"""h -> h W^T + b inside a loop with a hand-derived backward: R independent ones side by side."""

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
        """Add a block of steps, [K, R, B, out] and [K, R, B, in], to `gradients` as one product."""
        d_weight, d_bias = self.gradients
        R = d_out.shape[1]
        d_out = d_out.transpose(0, 1).reshape(R, -1, d_out.shape[-1])
        inputs = inputs.transpose(0, 1).reshape(R, -1, inputs.shape[-1])
        d_weight.baddbmm_(d_out.transpose(1, 2), inputs)
        d_bias += d_out.sum(1, keepdim=True)
