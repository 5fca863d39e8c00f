"""Compare a VSDN-VAE training step with the usual implementation: `python -m benchmarks.vsdn_step`.

Both compute the same loss and gradients (checked first). The benchmark runs in one thread, with 256 recurrent units,
networks of 4 x 512, and 300 frames of which a quarter is observed at random.
"""

import statistics

import torch

from benchmarks import plain_vsdn
from benchmarks.measure import Ratio, in_turn
from models.batch import Batch
from models.parts.likelihoods import Marginal
from models.vsdn import VsdnVae, VsdnVaeConfig

PAIRS = 7


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = VsdnVaeConfig(
        name="vsdn_vae", latent=64, hidden=256, width=512, depth=4, max_step=0.2, free_nats=2.0, held_out_fraction=0.5
    )
    model = VsdnVae(config, "bernoulli", Marginal(torch.full((128,), 0.03), 0.17))
    batch = rolls(B=16, T=300, share=0.25)
    ours, plain = step(model, batch), step(lambda *a: plain_vsdn.objective(model, *a), batch)
    check(model, ours, plain)
    times = in_turn(ours, plain, rounds=PAIRS)
    (mine, theirs), ratio = map(statistics.median, times), Ratio.of(*times)
    print(
        f"VSDN-VAE training step: {1e3 * mine:.0f} ms, the plain loop {1e3 * theirs:.0f} ms, ratio "
        f"{ratio.median:.1f} (medians of {PAIRS} pairs, {ratio.low:.1f} to {ratio.high:.1f})"
    )
    profile(model, batch)


def rolls(B: int, T: int, share: float) -> Batch:
    g = torch.Generator().manual_seed(0)
    present = torch.ones(B, T, dtype=torch.bool)
    order = torch.rand(B, T, generator=g).argsort(1)
    return Batch(
        (torch.arange(T, dtype=torch.float64) * 0.2).expand(B, T).contiguous(),
        (torch.rand(B, T, 128, generator=g) < 0.03).float(), present, order < share * T,
        torch.ones(B), torch.arange(B), tuple(map(str, range(B))),
    )  # fmt: skip


def step(forward, batch):
    def run():
        objective = forward(batch, 1.0)
        objective.loss.mean().backward()
        return objective

    return run


def check(model: VsdnVae, ours, plain) -> None:
    found = []
    for run in (ours, plain):
        model.zero_grad(set_to_none=True)
        found.append((run().loss.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-3)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-4
    print(f"same loss ({float(found[0][0].mean()):.3f} nats per sequence) and gradients")


def profile(model: VsdnVae, batch: Batch) -> None:
    """Print a profile of our step."""
    with torch.profiler.profile() as profiler:
        step(model, batch)()
    averages = {event.key: event.cpu_time_total for event in profiler.key_averages()}
    total = sum(event.self_cpu_time_total for event in profiler.key_averages())
    for name in ("_Recurrence", "_RecurrenceBackward", "aten::linear", "AddmmBackward0"):
        print(f"  {name:22s} {100 * averages.get(name, 0) / total:5.1f} % of our step")


if __name__ == "__main__":
    main()
