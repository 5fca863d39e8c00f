"""Compare the time of scoring a batch on all tasks together with that of scoring them one by one.

    python -m benchmarks.evaluation

The tasks share the recurrent states (`models.parts.once`), and VSDN-SDE's density and interpolation their paths. The
benchmark runs in one thread, with 256 recurrent units, networks of 2 x 256, and 16 sequences of 150 frames of which a
quarter is observed.
"""

import statistics

import torch

from benchmarks.measure import Ratio, in_turn
from benchmarks.vsdn_step import rolls
from driftwork.registry import Named
from launch.scoring.draws import Draws
from launch.scoring.scores import Scoring
from models.base import LatentDynamics
from models.baseline import GruOdeConfig
from models.parts.likelihoods import Marginal
from models.registry import build_model
from models.vsdn import VsdnVaeConfig
from models.vsdn_sde import VsdnSdeConfig

PAIRS = 5
SIZES = {"latent": 16, "hidden": 256, "width": 256, "depth": 2, "max_step": 0.2}
CONFIGS: tuple[Named, ...] = (
    GruOdeConfig(name="gru_ode", **SIZES),
    VsdnVaeConfig(name="vsdn_vae", **SIZES),
    VsdnSdeConfig(name="vsdn_sde", substeps=3, **SIZES),
)


def main() -> None:
    torch.set_num_threads(1)
    batch = rolls(B=16, T=150, share=0.25)
    scoring = Scoring(True, True, 150, Draws(samples=8, particles=8, rollout=False), ())
    for config in CONFIGS:
        torch.manual_seed(0)
        model = build_model(config, "bernoulli", Marginal(torch.full((128,), 0.03), 0.17)).eval()
        assert isinstance(model, LatentDynamics)

        def together(model: LatentDynamics = model) -> None:
            scoring.model(model, batch, "25")

        def apart(model: LatentDynamics = model) -> None:
            scoring.density(model, batch, "25", whole=True)
            scoring._prediction(scoring.draws.predictive(model, batch), batch, "25")
            scoring._interpolation(model.interpolate(batch, 8), batch, "25")

        with torch.inference_mode():
            together()
            times = in_turn(together, apart, rounds=PAIRS)
        (shared, alone), ratio = map(statistics.median, times), Ratio.of(*times)
        print(
            f"{config.name}: {1e3 * shared:.0f} ms per batch, task by task {1e3 * alone:.0f} ms, "
            f"ratio {ratio.median:.2f} (medians of {PAIRS} pairs, {ratio.low:.2f} to {ratio.high:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
