"""Flow of the ODE-RNN (Rubanova et al., 2019): a network with one hidden layer, in Euler steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.affine import Affine


class MlpFlow:
    """a = tanh(W h + b),  h' = h + dt (V a + c), with as many hidden units as the state has; a `recurrence.Flow`.

    The rate of change is bounded, |V a + c| <= |V|_1 + |c|, so that a state cannot blow up within a gap.
    """

    @staticmethod
    def shapes(R: int, H: int) -> dict[str, tuple[int, ...]]:
        return {"hidden": (R, H, H), "hidden_bias": (R, 1, H), "rate": (R, H, H), "rate_bias": (R, 1, H)}

    def __init__(self, weights: Sequence[Tensor], dt: Tensor, kept: Sequence[Tensor] = ()) -> None:
        W, b, V, c = weights
        self.hidden, self.rate, self.dt = Affine(W, b), Affine(V, c), dt
        M, R, B, _ = dt.shape
        (self.a,) = self.kept = tuple(kept) or (dt.new_empty(M, R, B, W.shape[1]),)

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        return *self.hidden.gradients, *self.rate.gradients

    def forward(self, m: int, h: Tensor, out: Tensor) -> Tensor:
        a = self.hidden(h, out=self.a[m]).tanh_()
        return torch.addcmul(h, self.rate(a), self.dt[m], out=out)

    def open(self, steps: slice, start: Tensor) -> None:
        self.start, self.active = start, self.a[steps]
        self.length = self.dt[steps]
        self.a_slope = 1 - self.active * self.active
        self.d_a, self.d_rate = torch.empty_like(self.active), torch.empty_like(start)

    def backward(self, i: int, delta: Tensor) -> Tensor:
        d_rate = torch.mul(delta, self.length[i], out=self.d_rate[i])
        d_a = torch.mul(self.rate.back(d_rate), self.a_slope[i], out=self.d_a[i])
        return self.hidden.back_onto(delta.clone(), d_a)

    def close(self) -> None:
        self.hidden.accumulate(self.d_a, self.start)
        self.rate.accumulate(self.d_rate, self.active)
