"""R independent affine maps h -> h W^T + b, side by side, for loops with a hand-derived backward pass."""

import torch
from torch import Tensor


class Affine:
    """An affine map of a step, its transpose, and the gradient of its weights summed over blocks of steps.

    Args:
        weight: [R, out, in]. bias: [R, 1, out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self._transposed = weight.mT.contiguous()  # a product would copy a view in every step
        self.gradients = (torch.zeros_like(weight), torch.zeros_like(bias))

    def __call__(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """Apply the maps: [R, B, in] -> [R, B, out]."""
        return torch.baddbmm(self.bias, h, self._transposed, out=out)

    def back(self, d_out: Tensor) -> Tensor:
        """Return the gradient of the input, given that of the output: [R, B, out] -> [R, B, in]."""
        return torch.bmm(d_out, self.weight)

    def back_onto(self, total: Tensor, d_out: Tensor) -> Tensor:
        """Add the result of `back` to `total` in place."""
        return total.baddbmm_(d_out, self.weight)

    def accumulate(self, d_out: Tensor, inputs: Tensor) -> None:
        """Add a block of steps, [K, R, B, out] and [K, R, B, in], to `gradients`."""
        weight_gradient(d_out, inputs, self.gradients)


def weight_gradient(d_out: Tensor, inputs: Tensor, total: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight [R, out, in] and bias [R, 1, out], summed over steps and rows in one product.

    They follow from `d_out` [..., R, B, out] and `inputs` [..., R, B, in], and are added in place to `total` if it is
    given."""
    d_out, inputs = by_network(d_out), by_network(inputs)
    if total is None:
        return torch.bmm(d_out.mT, inputs), d_out.sum(1, keepdim=True)
    d_weight, d_bias = total
    d_weight.baddbmm_(d_out.mT, inputs)  # a separate sum would pass over the weights once more per block
    d_bias += d_out.sum(1, keepdim=True)
    return total


def by_network(x: Tensor) -> Tensor:
    """Reshape [..., R, B, n] to [R, all rows, n], so that each of the R maps takes one matrix product for all steps."""
    return x.movedim(-3, 0).flatten(1, -2)
