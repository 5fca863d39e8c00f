"""Flow of the ODE-RNN (Rubanova et al., 2019): a feed-forward network, in Euler steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.solvers.affine import Affine
from models.solvers.flow import ACTIVATIONS, ActivationName


class MlpFlow:
    """The `recurrence.Flow` a_1 = f(W_1 h + b_1),  a_l = f(W_l a_(l-1) + b_l),  h' = h + dt (V a_L + c).

    The default has one hidden layer of tanh units, as wide as the state. With tanh units the rate of change is bounded,
    |V a + c| <= |V|_1 + |c|, so that a state cannot diverge within a gap. With ELU units the rate is unbounded.
    """

    depth = 1
    width: int | None = None
    """Number of units of a hidden layer; None means as many as the state has."""
    activation: ActivationName = "tanh"

    @classmethod
    def sized(cls, depth: int, width: int | None, activation: ActivationName) -> type["MlpFlow"]:
        """Return the class of flows with `depth` hidden layers of `width` units."""
        return type("SizedMlpFlow", (cls,), {"depth": depth, "width": width, "activation": activation})

    @classmethod
    def shapes(cls, R: int, H: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        inputs, W = H, cls.width or H
        for layer in range(1, cls.depth + 1):
            name = "hidden" if layer == 1 else f"hidden_{layer}"
            shapes |= {name: (R, W, inputs), f"{name}_bias": (R, 1, W)}
            inputs = W
        return {**shapes, "rate": (R, H, W), "rate_bias": (R, 1, H)}

    def __init__(self, weights: Sequence[Tensor], dt: Tensor, kept: Sequence[Tensor] = ()) -> None:
        *self.hidden, self.rate = (Affine(W, b) for W, b in zip(weights[::2], weights[1::2], strict=True))
        self.dt = dt
        self.apply_, self.slope = ACTIVATIONS[self.activation]
        M, R, B, _ = dt.shape
        self.a = self.kept = tuple(kept) or tuple(dt.new_empty(M, R, B, x.weight.shape[1]) for x in self.hidden)

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        return tuple(x for layer in (*self.hidden, self.rate) for x in layer.gradients)

    def forward(self, m: int, h: Tensor, out: Tensor) -> Tensor:
        y = h
        for layer, a in zip(self.hidden, self.a, strict=True):
            y = self.apply_(layer(y, out=a[m]))
        return torch.addcmul(h, self.rate(y), self.dt[m], out=out)

    def open(self, steps: slice, start: Tensor) -> None:
        self.active = [a[steps] for a in self.a]
        self.inputs = [start, *self.active]
        self.length = self.dt[steps]
        self.slopes = [self.slope(a) for a in self.active]
        self.d_a, self.d_rate = [torch.empty_like(a) for a in self.active], torch.empty_like(start)

    def backward(self, i: int, delta: Tensor, incoming: Tensor) -> Tensor:
        delta = delta + incoming
        d = self.rate.back(torch.mul(delta, self.length[i], out=self.d_rate[i]))
        for n in reversed(range(len(self.hidden))):
            d = torch.mul(d, self.slopes[n][i], out=self.d_a[n][i])
            if n > 0:
                d = self.hidden[n].back(d)
        return self.hidden[0].back_onto(delta, d)

    def close(self) -> None:
        for layer, d_out, inputs in zip((*self.hidden, self.rate), (*self.d_a, self.d_rate), self.inputs, strict=True):
            layer.accumulate(d_out, inputs)
