"""Compare an ODE2VAE training step with the usual implementation: `python -m benchmarks.ode2vae_step`.

Ours is the direct solver with its own backward pass and the trace by the closed form, compiled or eager
(docs/loops.md). The usual one is torchdiffeq's rk4 and the trace by one autograd call per latent dimension and stage.
All forms compute the same loss and gradients, which is checked first. The benchmark runs in one thread, with 13
sequences of 300 frames of 50 channels, at the size published for motion capture and at a larger one.
"""

import statistics
import sys
from collections.abc import Callable
from unittest.mock import patch

import torch

from benchmarks.measure import Ratio, in_turn, memory
from models.batch import Batch
from models.ode2vae import Ode2Vae, Ode2VaeConfig
from models.parts.likelihoods import Marginal
from models.solvers import flow
from models.solvers.ode import SolverConfig

B, T, D = 13, 300, 50
PAIRS = 3
CASES = [(3, 30, 3.0), (16, 100, 8.0)]
"""Compared sizes: (q, units of every hidden layer, smallest accepted ratio)."""
LEAST_OF_EAGER = 2.0
"""Smallest accepted ratio of the eager form's time to the compiled form's."""

SOLVERS = {
    "ours": SolverConfig(),
    "eager": SolverConfig(),
    "plain": SolverConfig(backend="torchdiffeq", method="rk4", trace="autograd"),
}


def main() -> int:
    missed = 0
    for q, width, least in CASES:
        ours, eager, plain = (step(name, q, width) for name in SOLVERS)
        for other in (eager, plain):
            check(ours(), other())
        mine, *others = in_turn(ours, eager, plain, rounds=PAIRS)
        print(f"q = {q}, {width} units: {1e3 * statistics.median(mine):.0f} ms per step")
        for name, times, required in zip(("eager form", "usual form"), others, (LEAST_OF_EAGER, least), strict=True):
            ratio = Ratio.of(mine, times)
            print(f"  {name} {1e3 * statistics.median(times):.0f} ms, ratio {ratio.median:.1f} (medians of {PAIRS} "
                  f"rounds, {ratio.low:.1f} to {ratio.high:.1f}; required: at least {required:g})")  # fmt: skip
            missed += ratio.misses(required)
        mib = ", ".join(f"{name} {memory(step, name, q, width):.0f} MiB" for name in SOLVERS)
        print(f"  memory of a step: {mib}", flush=True)
    return 1 if missed else 0


def step(name: str, q: int, width: int) -> Callable[[], tuple[torch.Tensor, list[torch.Tensor]]]:
    """Return a function that takes one step and returns loss and gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Ode2VaeConfig(
        name="ode2vae", latent=q, encoder_width=width, decoder_width=width, field_width=width, solver=SOLVERS[name]
    )
    model, batch = Ode2Vae(config, "gaussian", Marginal(torch.zeros(D), 1.0, B)), walks()

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        with patch.object(flow, "run_compiled", flow.run_eager if name == "eager" else flow.run_compiled):
            loss = model(batch, 1.0).loss
        loss.mean().backward()
        return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]

    return run


def walks() -> Batch:
    """Return a batch of slow oscillations with noise, with a phase for each sequence and channel."""
    g = torch.Generator().manual_seed(0)
    times = (torch.arange(T, dtype=torch.float64) * 0.1).expand(B, T).contiguous()
    phase = torch.rand(B, 1, D, generator=g) * 6.3
    values = torch.sin(times.float()[..., None] + phase) + 0.1 * torch.randn(B, T, D, generator=g)
    seen = torch.ones(B, T, dtype=torch.bool)
    return Batch(times, values, seen, seen, torch.ones(B), torch.arange(B), tuple(map(str, range(B))))


def check(ours: tuple[torch.Tensor, list[torch.Tensor]], plain: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-4, atol=1e-2)
    worst = max(float((a - b).norm() / b.norm()) for a, b in zip(ours[1], plain[1], strict=True))
    assert worst < 1e-2, worst
    print(f"same loss ({float(ours[0].mean()):.2f} and {float(plain[0].mean()):.2f} nats per sequence), gradients that "
          f"differ by {worst:.0e} at most, in float32")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
