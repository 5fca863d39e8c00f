"""Ranks of test_engine.py, one or two: `python -m tests.launch.training.ranks DATA OUT`, run under the launcher."""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad
from safetensors.torch import save_file

from driftwork.config_base import load
from launch.runs import loaders, run_folder
from launch.runs.config import OptimConfig, RunConfig
from launch.runs.distributed import Ranks, all_gathered, join_ranks, leave
from launch.training.engine import Engine
from models.base import Model
from pipeline.shards.manifest import read_manifest
from tests.places import tiny

MODELS = ("vsdn_vae", "ode2vae", "vsdn_sde")
STAGES = (0, 1, 2, 3)
LR = 3e-3
EMA = 0.15
"""Decay of the average, below the second update's (1 + n) / (10 + n)."""
ACCUMULATE = 3
"""Number of micro-batches, which divides no batch evenly."""


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    ranks = join_ranks()
    manifest = read_manifest(data)
    for name in MODELS:
        config = load(RunConfig, tiny(name), [f"data={data}", "ranks=1"])
        for stage in STAGES:
            optim = OptimConfig(zero_stage=stage, clip_norm=0.5)
            engine = Engine(run_folder.model_for(config, manifest), optim, ranks, 20)
            stream = loaders.training(config, manifest, ranks)
            gradients = autocast(run_folder.model_for(config, manifest), stage, ranks, next(stream.epoch(0)))
            if ranks.rank == 0:
                save_file(gradients, out / f"{name}-autocast-stage{stage}-of{ranks.world}.safetensors")
            # 3 epochs of 4 steps, the last of each short
            batches = [batch for epoch in range(3) for batch in stream.epoch(epoch)]
            assert len(batches) == 12
            before = generators()
            norms = [engine.step(batch, 0.5, LR * 0.9 ** (n // 3)).grad_norm for n, batch in enumerate(batches)]
            assert generators() == before, "a step drew from a global generator"
            held = sum(p.numel() for p in engine.module.parameters())
            assert held == (0 if stage == 3 else engine.size), "stage 3 alone divides the weights, to the last one"
            weights = engine.weights()
            if ranks.rank == 0:
                file = out / f"{name}-stage{stage}-of{ranks.world}.safetensors"
                save_file({**weights, "norms": torch.tensor(norms)}, file)
            batch = next(stream.epoch(0))
            ask(engine, run_folder.model_for(config, manifest), batch, weights)
            refuse_nan(engine, batch, weights)
            if name == "vsdn_vae":
                parts = Engine(run_folder.model_for(config, manifest), optim, ranks, 20, ACCUMULATE)
                norms = accumulated(parts, batches)
                weights = parts.weights()
                if ranks.rank == 0:
                    file = out / f"accumulated-stage{stage}-of{ranks.world}.safetensors"
                    save_file({**weights, "norms": torch.tensor(norms)}, file)
            if stage < 3 and name == "vsdn_vae":
                averaged = optim.model_copy(update={"ema": EMA})
                average(Engine(run_folder.model_for(config, manifest), averaged, ranks, 20), batches[:3])
            if stage == 3:  # test_resume.py tests the others
                go_on(engine, Engine(run_folder.model_for(config, manifest), optim, ranks, 20), batch, out / name)
    leave()


def accumulated(engine: Engine, batches) -> list[float]:
    """Train on micro-batches and return the norms. NaN in the first micro-batch of the last rank alone, when its
    gradients are already accumulated, changes nothing."""
    last, norms = engine.ranks.rank == engine.ranks.world - 1, []
    for n, batch in enumerate(batches):
        if n == 2:
            values = batch.values.clone()
            values[:1] *= float("nan") if last else 1.0
            refused = engine.step(batch._replace(values=values), 0.5, LR)
            assert not refused.applied
            assert bool(refused.objective.loss[0].isfinite()) != last
        step = engine.step(batch, 0.5, LR * 0.9 ** (n // 3))
        assert step.applied
        assert step.objective.loss.shape == batch.weight.shape
        norms.append(step.grad_norm)
    return norms


def average(engine: Engine, batches) -> None:
    """Check that the average of the weights after each update is scored, and that training continues from the
    weights."""
    live = dict(engine.module.named_parameters())
    expected = {name: x.detach().clone() for name, x in live.items()}
    for n, batch in enumerate(batches, 1):
        engine.step(batch, 0.5, LR)
        for name, mean in expected.items():
            mean.lerp_(live[name].detach(), 1 - min(EMA, (1 + n) / (10 + n)))
    before = {name: x.detach().clone() for name, x in live.items()}
    found = engine.weights()
    for name, mean in expected.items():
        assert torch.equal(found[name], mean), name
        assert torch.equal(live[name], before[name]), name
        assert not torch.equal(live[name], mean), name


def autocast(model: Model, stage: int, ranks: Ranks, batch) -> dict[str, torch.Tensor]:
    """Check that the reduced gradient of a step under autocast is the mean of the ranks', to two roundings in float32.

    Returns the gradient, and for each parameter the largest entry on any rank."""
    engine = Engine(model, OptimConfig(zero_stage=stage, clip_norm=0.0, autocast=True), ranks, 20)
    own: dict[str, torch.Tensor] = {}
    for name, p in engine.module.named_parameters():
        p.register_hook(lambda g, name=name: own.update({name: g.detach().clone()}))
    loss = (engine.engine(batch, 0.5).loss * batch.weight).sum() / 20
    engine.engine.backward(loss)
    reduced, coarse = {}, 0
    for name, p in engine.module.named_parameters():
        everyone = all_gathered(own[name].double())
        mean, size = sum(everyone) / ranks.world, sum(x.abs() for x in everyone) / ranks.world
        found = (p.grad if stage == 0 else safe_get_full_grad(p)).double().view_as(mean)
        assert ((found - mean).abs() <= 4 * 2.0**-24 * size).all(), (stage, name)
        coarse += int((mean.bfloat16().double() != mean).sum())
        reduced |= {name: found, f"{name} at most": torch.stack([x.abs().max() for x in everyone]).max()}
    assert coarse > 0, "bfloat16 could represent it too"
    return reduced


def generators() -> tuple[object, ...]:
    """Return the states of the process's generators, which a step does not use and no checkpoint stores."""
    _, state, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), state.tolist(), rest, random.getstate()


def ask(engine: Engine, whole: Model, batch, weights) -> None:
    """Call other methods than `forward`, as in a validation, of a model that may be divided and of its undivided
    copy."""
    whole.load_state_dict(weights)
    engine.module.eval()
    with torch.no_grad(), engine.open():
        found, expected = engine.module.density(batch, 2), whole.eval().density(batch, 2)
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    engine.module.train()


def go_on(engine: Engine, other: Engine, batch, folder: Path) -> None:
    """Check that the next step is equal in an engine that saves and in one that loads."""
    engine.save(folder)
    other.load(folder)
    assert other.step(batch, 0.5, LR).grad_norm == engine.step(batch, 0.5, LR).grad_norm
    weights = engine.weights()
    assert all(torch.equal(x, weights[name]) for name, x in other.weights().items())


def refuse_nan(engine: Engine, batch, weights) -> None:
    """Check that with NaN on the last rank alone, in the loss or in a gradient, no rank updates and all stay finite. A
    learning rate of 0 changes no weight either."""
    last = engine.ranks.rank == engine.ranks.world - 1
    poisoned = batch._replace(values=batch.values * float("nan")) if last else batch
    assert not engine.step(poisoned, 0.5, LR).applied
    parameter = next(engine.module.decoder.parameters())
    handle = parameter.register_hook(lambda g: g * float("nan") if last else g)
    assert not engine.step(batch, 0.5, LR).applied
    handle.remove()
    for name, x in engine.weights().items():
        assert torch.equal(x, weights[name]), name
    assert engine.step(batch, 0.5, lr=0.0).applied
    assert all(torch.equal(x, weights[name]) for name, x in engine.weights().items()), "the learning rate is not used"
    assert engine.step(batch, 0.5, LR).applied
    assert all(x.isfinite().all() for x in engine.weights().values())


if __name__ == "__main__":
    main()
