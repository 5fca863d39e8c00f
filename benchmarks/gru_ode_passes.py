"""Compare bidirectional GRU-ODE with a single pass: `python -m benchmarks.gru_ode_passes`.

States and gradients are computed for 32 sequences, 256 units, and 100 frames of which a quarter is observed at random,
in one thread. Two directions take twice the arithmetic of one. The time of the arithmetic alone, at the rate of the
loop's largest product, is also printed, since it is a lower bound on the ratio on one core.
"""

import statistics
from collections.abc import Callable

import torch

from benchmarks.measure import Ratio, in_turn, timed
from benchmarks.vsdn_step import rolls
from models.gru_ode import Events, GruOde
from models.parts.likelihoods import Marginal

B, T, H, D = 32, 100, 256, 128
SHARE = 0.25
PAIRS = 15


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    one, both = step(passes=1), step(passes=2)
    for run in (one, both):
        run()
    times = in_turn(one, both, rounds=PAIRS)
    (alone, together), ratio = map(statistics.median, times), Ratio.of(*times)
    print(
        f"GRU-ODE states and gradients: one pass {1e3 * alone:.0f} ms, both {1e3 * together:.0f} ms, "
        f"ratio {ratio.median:.2f} (medians of {PAIRS} pairs, {ratio.low:.2f} to {ratio.high:.2f})"
    )
    speed = rate()
    products = flops() / speed
    print(
        f"  matrix products alone, at {speed / 1e9:.0f} GFLOP/s: {1e3 * products:.0f} and {2e3 * products:.0f} ms; "
        f"if the second pass took only its products, the ratio would be {(alone + products) / alone:.2f}"
    )


def step(passes: int) -> Callable[[], None]:
    net = GruOde(Marginal(torch.full((D,), 0.03), 0.17), H, passes, max_step=0.2, time_unit=1.0)
    batch = rolls(B, T, SHARE)
    events = Events.of(batch)

    def run() -> None:
        trajectory = net(batch, events)
        torch.stack([trajectory.at_events(direction)[0].sum() for direction in range(passes)]).sum().backward()

    return run


def flops() -> float:
    """Return the floating-point operations of one pass.

    They are those of forward, backward and weight gradient of gates (2), candidate (1) and update (3) at every step,
    and of the projected observations, whose input needs no gradient."""
    return 2.0 * B * T * (3 * 6 * H * H + SHARE * 2 * 3 * H * D)


def rate() -> float:
    """Return the measured FLOP/s of the product of an update."""
    h, weight, out = torch.randn(1, B, H), torch.randn(1, H, 3 * H), torch.empty(1, B, 3 * H)
    repeats = 20
    fastest = min(timed(lambda: [torch.bmm(h, weight, out=out) for _ in range(repeats)]) for _ in range(50))
    return 2.0 * B * H * 3 * H * repeats / fastest


if __name__ == "__main__":
    main()
