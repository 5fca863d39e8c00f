"""Flow of GRU-ODE (De Brouwer et al., 2019, eq. 6, input-free cell), in Euler steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.solvers.affine import Affine


class GruFlow:
    """The `recurrence.Flow` [z, r] = sigmoid(W h + b),  g = tanh(V (r h) + c),  h' = h + dt (1 - z) (g - h)."""

    @classmethod
    def shapes(cls, R: int, H: int) -> dict[str, tuple[int, ...]]:
        gates = {"gates": (R, 2 * H, H), "gates_bias": (R, 1, 2 * H)}
        return {**gates, "candidate": (R, H, H), "candidate_bias": (R, 1, H)}

    def __init__(self, weights: Sequence[Tensor], dt: Tensor, kept: Sequence[Tensor] = ()) -> None:
        W, b, V, c = weights
        self.gates, self.candidate, self.dt = Affine(W, b), Affine(V, c), dt
        M, R, B, _ = dt.shape
        self.H = H = V.shape[1]
        self.zr, self.g = self.kept = tuple(kept) or (dt.new_empty(M, R, B, 2 * H), dt.new_empty(M, R, B, H))

    @property
    def gradients(self) -> tuple[Tensor, ...]:
        return *self.gates.gradients, *self.candidate.gradients

    def forward(self, m: int, h: Tensor, out: Tensor) -> Tensor:
        z_r = self.gates(h, out=self.zr[m]).sigmoid_()
        g = self.candidate(z_r[..., self.H :] * h, out=self.g[m]).tanh_()
        toward = (g - h).mul_(self.dt[m])
        return torch.add(h, toward.addcmul_(toward, z_r[..., : self.H], value=-1), out=out)

    def open(self, steps: slice, start: Tensor) -> None:
        dt, zr, g = self.dt[steps], self.zr[steps], self.g[steps]
        z, self.r = zr.chunk(2, -1)
        self.start, self.rh = start, self.r * start
        toward = dt * (1 - z)
        self.g_slope = toward * (1 - g * g)
        self.z_slope = dt * (start - g) * z * (1 - z)
        self.r_slope = self.rh * (1 - self.r)  # of r h in the pre-activation of r
        self.stay = 1 - toward
        self.d_zr, self.d_g = torch.empty_like(zr), torch.empty_like(g)

    def backward(self, i: int, delta: Tensor, incoming: Tensor) -> Tensor:
        delta, d_zr = delta + incoming, self.d_zr[i]
        d_rh = self.candidate.back(torch.mul(delta, self.g_slope[i], out=self.d_g[i]))
        torch.mul(delta, self.z_slope[i], out=d_zr[..., : self.H])
        torch.mul(d_rh, self.r_slope[i], out=d_zr[..., self.H :])
        return self.gates.back_onto((delta * self.stay[i]).addcmul_(d_rh, self.r[i]), d_zr)

    def close(self) -> None:
        self.gates.accumulate(self.d_zr, self.start)
        self.candidate.accumulate(self.d_g, self.rh)


class GruUpdate:
    """The GRU cell of `recurrence` at an observation: a `recurrence.Flow` with additional inputs and outputs."""

    def __init__(
        self, U: Tensor, d: Tensor, observe: Tensor, everywhere: bool = True, kept: tuple[Tensor, ...] = ()
    ) -> None:
        self.recurrent, self.observe = Affine(U, d), observe
        self.H = H = U.shape[2]
        if not kept:  # entries that are not computed must be finite: their slope is multiplied by m = 0
            new = observe.new_empty if everywhere else observe.new_zeros
            M, R, B, _ = observe.shape
            kept = new(M, R, B, 3 * H), new(M, R, B, H)
        self.rzu, self.n = self.kept = kept
        """[M, R, B, 3H] the gates r, z and the recurrent part of n; [M, R, B, H] the candidate n."""

    def forward(self, m: int, h: Tensor, x: Tensor, out: Tensor) -> Tensor:
        H = self.H
        u, n = self.recurrent(h, out=self.rzu[m]), self.n[m]
        r, z = u[..., : 2 * H].add_(x[..., : 2 * H]).sigmoid_().chunk(2, -1)
        torch.addcmul(x[..., 2 * H :], r, u[..., 2 * H :], out=n).tanh_()
        jump = (n - h).mul_(self.observe[m])
        return torch.add(h, jump.addcmul_(jump, z, value=-1), out=out)

    def open(self, steps: slice, before: Tensor) -> None:
        r, z, un = self.rzu[steps].chunk(3, -1)
        n, observe = self.n[steps], self.observe[steps]
        toward = observe * (1 - z)
        self.before, self.stay = before, 1 - toward
        self.n_slope = toward * (1 - n * n)
        self.u_slope = torch.stack(
            [self.n_slope * un * r * (1 - r), observe * (before - n) * z * (1 - z), self.n_slope * r], -2
        )
        self.d_u, self.d_n = torch.empty_like(self.u_slope), torch.empty_like(n)

    def backward(self, i: int, delta: Tensor, incoming: Tensor, observed: bool) -> Tensor:
        delta = delta + incoming
        torch.mul(delta, self.n_slope[i], out=self.d_n[i])
        d_u = torch.mul(delta[..., None, :], self.u_slope[i], out=self.d_u[i])
        return self.recurrent.back_onto(delta * self.stay[i], d_u.flatten(-2)) if observed else delta

    def close(self, d_x: Tensor) -> None:
        d_u = self.d_u.flatten(-2)
        d_x[..., : 2 * self.H] = d_u[..., : 2 * self.H]
        d_x[..., 2 * self.H :] = self.d_n
        self.recurrent.accumulate(d_u, self.before)
