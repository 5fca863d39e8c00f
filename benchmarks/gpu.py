"""Check and time every model on a GPU: `python -m benchmarks.gpu`. It prints a page of Markdown.

Each model of published size takes a step on the GPU and on the CPU, on the same batch: loss and gradients must agree.
Then steps are timed in single precision, under bfloat16 autocast, and with the eager loops.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from driftwork.config_base import load
from launch.runs.config import RunConfig
from models.base import Model
from models.batch import Batch
from models.parts.likelihoods import Marginal
from models.registry import build_model
from models.solvers.choice import set_loops

CONFIGS = ("ode2vae_mocap", "neural_ode_mocap", "gru_ode_lakh", "ode_rnn_lakh", "bi_gru_ode_lakh", "vsdn_vae_lakh",
           "vsdn_sde_lakh")  # fmt: skip
B, T, D = 16, 60, 50
TOLERANCE = 1e-3
"""Largest difference between the devices, as a fraction of the largest absolute value of a tensor."""
STEPS = 5


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU is visible to torch; run this on a machine with one", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    print(f"# A step on {torch.cuda.get_device_name(device)}, torch {torch.__version__}\n")
    differences = [print_row(name, device) for name in CONFIGS]
    return int(max(differences) > TOLERANCE)


def print_row(name: str, device: torch.device) -> float:
    """Print the results for a model, and return the largest difference from the CPU."""
    model, batch = case(name)
    expected = step(model, batch)()
    model = model.to(device)
    there = batch.planned(model.planner()).to(device)
    largest = max(map(difference, step(model, there)(), expected))
    print(f"- **{name}**: {B} sequences of {T} frames; largest difference from the CPU {largest:.1e}")
    print(f"  - float32: {timed(step(model, there), device)}")
    print(f"  - bfloat16 autocast: {timed(step(model, there, autocast=True), device)}")
    set_loops("eager")
    print(f"  - float32, eager loop: {timed(step(model, there), device)}", flush=True)
    set_loops("auto")
    return largest


def case(name: str) -> tuple[Model, Batch]:
    """Return a model of published size and a batch of noise, on the CPU."""
    torch.manual_seed(0)
    config = load(RunConfig, Path(__file__).parents[1] / f"configs/train/{name}.yaml").model
    likelihood = "bernoulli" if name.endswith("lakh") else "gaussian"
    times = (torch.arange(T, dtype=torch.float64) / 10).expand(B, T).contiguous()
    values, present = torch.randn(B, T, D), torch.ones(B, T, dtype=torch.bool)
    values = (values > 1).float() if likelihood == "bernoulli" else values
    observed = present & (torch.arange(T) % 2 == 0)
    batch = Batch(times, values, present, observed, torch.ones(B), torch.arange(B), ("",) * B)
    return build_model(config, likelihood, Marginal(torch.full((D,), 0.16), 1.0)), batch


def step(model: Model, batch: Batch, autocast: bool = False) -> Callable[[], list[Tensor]]:
    """Return a function that computes loss and gradients."""

    def take() -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        with torch.autocast(batch.values.device.type, torch.bfloat16, enabled=autocast):
            loss = model(batch, 1.0).loss
        loss.sum().backward()
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    return take


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a fraction of the largest absolute value expected; infinity if one is NaN."""
    scale = float(expected.abs().max()) or 1.0
    largest = float((found.cpu() - expected).abs().max()) / scale
    return math.inf if math.isnan(largest) else largest  # `max` and `>` would pass over NaN


def timed(take: Callable[[], list[Tensor]], device: torch.device) -> str:
    """Return the median time and the peak memory of a step as text, after a step that is not counted."""
    take()
    torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(STEPS):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        take()
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    return f"{1e3 * statistics.median(seconds):.1f} ms, {peak:.0f} MiB"


if __name__ == "__main__":
    raise SystemExit(main())
