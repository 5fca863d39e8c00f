"""Compare a VSDN-SDE training step with one by torchsde: `python -m benchmarks.vsdn_sde_step`.

A step computes loss and gradients of the whole objective from the recurrent states on, by the compiled loop or the
eager one (docs/loops.md): path KL and decoder, with the gradient with respect to the recurrent states. The GRU-ODE
before them is the same for all and left out. Both sides compute the same values, which is checked first on the same
Brownian path.

torchsde is called as in its examples, with logqp=True and f, g, h as networks that look up their context at time t. The
examples offer sdeint (the default) and sdeint_adjoint, with the default BrownianInterval, drawn in every step. The
required ratio of 20 is that to sdeint_adjoint. Each is also called with an interval made for the solver's step that
keeps all its values and is used again, so that no time is spent on Brownian motion. The benchmark runs in one thread,
on 32 sequences of 100 observed frames, with latent 8 and 64 units in every layer.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torchsde
from torch import Tensor, nn

from benchmarks.measure import Ratio, in_turn, memory
from models.batch import Batch
from models.gru_ode import Events, Trajectory
from models.parts.likelihoods import Marginal
from models.parts.noise import keyed_normal
from models.solvers import sde_loop
from models.vsdn_sde import VsdnSde, VsdnSdeConfig

B, T, D, Z, UNITS = 32, 100, 128, 8, 64
STEP = 0.25  # seconds between frames; sums of it are exact, so that torchsde takes no step too many
ROUNDS = 5
LEAST = {"sdeint_adjoint": 20.0, "sdeint, kept path": 3.0}
OTHERS = ("ours, eager form", "sdeint", "sdeint, kept path", "sdeint_adjoint", "sdeint_adjoint, kept path")


class LatentSde(nn.Module):
    """Posterior f, prior h and diffusion g in the form of torchsde's examples, with the weights of our model."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, model: VsdnSde) -> None:
        super().__init__()
        c, drifts = model.config, model.drifts
        self.bound, (self.low, self.high) = c.bound, c.diffusion
        self.prior = network(drifts, 0, drifts.read_past, drifts.prior, drifts.prior_bias)
        self.posterior = network(drifts, 1, drifts.read_all, drifts.posterior, drifts.posterior_bias)

    def contextualize(self, ts: Tensor, past: Tensor, everything: Tensor) -> None:
        self.ts, self.past, self.everything = ts, past, everything

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        u: Tensor = self.posterior(torch.cat([x, self.everything[self._now(t)]], 1))
        return self.bound * u.tanh() - x

    def h(self, t: Tensor, x: Tensor) -> Tensor:
        u: Tensor = self.prior(torch.cat([x, self.past[self._now(t)]], 1))
        return self.bound * u[:, :Z].tanh() - x

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        u: Tensor = self.prior(torch.cat([x, self.past[self._now(t)]], 1))
        return self.low + (self.high - self.low) * u[:, Z:].sigmoid()

    def _now(self, t: Tensor) -> int:
        return min(int(torch.searchsorted(self.ts, t, right=True)) - 1, len(self.past) - 1)


def network(drifts: nn.Module, g: int, read: nn.Linear, out: Tensor, out_bias: Tensor) -> nn.Sequential:
    """Return N1 or N2 as a network that reads state and context together."""
    layers: list[nn.Module] = [linear(torch.cat([drifts.state[g], read.weight], 1), read.bias), nn.ELU()]
    for weight, bias in zip(*([] if x is None else x for x in (drifts.hidden, drifts.hidden_bias)), strict=True):
        layers += [linear(weight[g], bias[g, 0]), nn.ELU()]
    return nn.Sequential(*layers, linear(out, out_bias))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return layer


class States(nn.Module):
    """A stand-in for the GRU-ODE that returns given states."""

    def __init__(self, trajectory: Trajectory) -> None:
        super().__init__()
        self.before, self.after = (nn.Parameter(x.detach()) for x in (trajectory.before, trajectory.after))
        self.trajectory = trajectory

    def forward(self, batch: Batch, events: Events) -> Trajectory:
        return self.trajectory._replace(before=self.before, after=self.after)


class Increments:
    """The Brownian path of our own step; its increments are 0 for the KL, which torchsde adds as a state."""

    levy_area_approximation, dtype, device, shape = "none", torch.float32, torch.device("cpu"), (B, Z + 1)

    def __init__(self, batch: Batch) -> None:
        # Our first step has no length: it leads to the frame at time 0.
        noise = keyed_normal(batch.seed, T, Z)[:, 1:].transpose(0, 1)
        self.noise = nn.functional.pad(STEP**0.5 * noise, (0, 1))

    def __call__(self, start: Tensor, end: Tensor) -> Tensor:
        return self.noise[round(float(start) / STEP)]


Step = Callable[[], tuple[Tensor, Tensor, Tensor]]
"""Type of a function that takes a step and returns loss [B] and the gradients of recurrent states and decoder."""


def steps(depth: int) -> dict[str, Step]:
    """Return the steps by name: ours in two forms, torchsde's in four ways, and torchsde's on our Brownian path."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = VsdnSdeConfig(name="vsdn_sde", latent=Z, hidden=UNITS, width=UNITS, depth=depth, max_step=STEP)
    model, batch = VsdnSde(config, "bernoulli", Marginal(torch.full((D,), 0.03), 0.17)), rolls()
    with torch.no_grad():
        model.gru_ode = states = States(model.gru_ode(batch, Events.of(batch)))
    sde, ts = LatentSde(model), batch.times[0].float()
    kept = torchsde.BrownianInterval(t0=ts[0], t1=ts[-1], size=(B, Z + 1), dt=STEP, cache_size=None)

    def result(loss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for module in (model, sde):
            module.zero_grad(set_to_none=True)
        loss.mean().backward()
        return loss.detach(), states.before.grad + states.after.grad, model.decoder.linear.weight.grad

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        return result(model(batch, 1.0).loss)

    def theirs(bm: Any = None, adjoint: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        # Frame n + 1 ends step n: forward state after frame n, backward state after frame n + 1.
        past, later = states.after[:-1, 0], states.after.flip(0)[1:, 1]
        everything = torch.cat([past, later], -1)
        sde.contextualize(ts, past, everything)
        options = {"bm": bm, "dt": STEP, "method": "euler", "logqp": True}
        x0 = model.x0.expand(B, -1)
        if adjoint:
            parameters = (past, everything, *sde.parameters())
            x, kl = torchsde.sdeint_adjoint(sde, x0, ts, adjoint_params=parameters, **options)
        else:
            x, kl = torchsde.sdeint(sde, x0, ts, **options)
        state = torch.cat([x, states.before[:, 0]], -1).transpose(0, 1)
        log_likelihood = model.decoder.log_prob(state, model.decoder.past(batch), batch.values).sum(1)
        return result(kl.sum(0) - log_likelihood)

    def eager() -> tuple[Tensor, Tensor, Tensor]:
        with patch.object(sde_loop, "run_compiled", sde_loop.run_eager):
            return ours()

    return {
        "ours": ours,
        "ours, eager form": eager,
        "sdeint": theirs,
        "sdeint, kept path": lambda: theirs(kept),
        "sdeint_adjoint": lambda: theirs(adjoint=True),
        "sdeint_adjoint, kept path": lambda: theirs(kept, adjoint=True),
        "check": lambda: theirs(Increments(batch)),
    }


def rolls() -> Batch:
    g = torch.Generator().manual_seed(0)
    seen = torch.ones(B, T, dtype=torch.bool)
    return Batch(
        (torch.arange(T, dtype=torch.float64) * STEP).expand(B, T).contiguous(),
        (torch.rand(B, T, D, generator=g) < 0.03).float(), seen, seen,
        torch.ones(B), torch.arange(B), tuple(map(str, range(B))),
    )  # fmt: skip


def check(ours: tuple[Tensor, Tensor, Tensor], theirs: tuple[Tensor, Tensor, Tensor]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-3)
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(ours[1:], theirs[1:], strict=True))
    assert worst < 1e-3, worst
    print(f"  same loss ({float(ours[0].mean()):.3f} nats per sequence), gradients that differ by {worst:.0e} at most")


def main() -> int:
    missed = 0
    for depth in (1, 2):
        run = steps(depth)
        print(f"depth {depth}:")
        check(run["ours"](), run["check"]())
        check(run["ours, eager form"](), run["check"]())
        ours, *others = in_turn(*(run[name] for name in ("ours", *OTHERS)), rounds=ROUNDS)
        report("ours", ours, depth)
        for name, times in zip(OTHERS, others, strict=True):
            ratio, least = Ratio.of(ours, times), LEAST.get(name)
            required = f"; required: at least {least:g}" if least else ""
            spread = f"{ratio.low:.1f} to {ratio.high:.1f}{required}"
            report(name, times, depth, f"  ratio {ratio.median:5.1f} ({spread})")
            missed += least is not None and ratio.misses(least)
    return 1 if missed else 0


def report(name: str, times: list[float], depth: int, ratio: str = "") -> None:
    mib = memory(step, name, depth)
    print(f"  {name:26s} {1e3 * statistics.median(times):6.0f} ms  {mib:5.0f} MiB{ratio}", flush=True)


def step(name: str, depth: int) -> Step:
    return steps(depth)[name]


if __name__ == "__main__":
    sys.exit(main())
