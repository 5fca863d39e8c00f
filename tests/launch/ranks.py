"""What test_engine.py runs under the launcher, on one rank and on two: `python -m tests.launch.ranks DATA OUT`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from launch import run_folder, streams
from launch.config import OptimConfig, RunConfig
from launch.engine import Engine, join_ranks, leave
from models.config_base import load
from pipeline.manifest import read_manifest

MODELS = ("vsdn_vae", "ode2vae", "vsdn_sde")
STAGES = (0, 1, 2, 3)


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    ranks = join_ranks()
    manifest = read_manifest(data)
    for name in MODELS:
        config = load(RunConfig, Path(__file__).with_name(f"tiny_{name}.yaml"), [f"data={data}", "ranks=1"])
        for stage in STAGES:
            optim = OptimConfig(lr=3e-3, lr_decay=0.9, lr_decay_steps=5, zero_stage=stage, clip_norm=0.5)
            engine = Engine(run_folder.model_for(config, manifest), optim, ranks, 20)
            stream = streams.training(config, manifest, ranks)
            # 5 epochs of 4 steps, the last of each short
            norms = [engine.step(batch, 0.5).grad_norm for epoch in range(5) for batch in stream.epoch(epoch)]
            assert len(norms) == 20
            weights = engine.weights()
            if ranks.rank == 0:
                file = out / f"{name}-stage{stage}-of{ranks.world}.safetensors"
                save_file({**weights, "norms": torch.tensor(norms)}, file)
            refuse_nan(engine, next(stream.epoch(0)), weights)
    leave()


def refuse_nan(engine: Engine, batch, weights) -> None:
    """NaN on the last rank alone, in the loss and then in a gradient: no rank updates, all stay finite."""
    last = engine.ranks.rank == engine.ranks.world - 1
    poisoned = batch._replace(values=batch.values * float("nan")) if last else batch
    assert not engine.step(poisoned, 0.5).applied
    parameter = next(engine.module.decoder.parameters())
    handle = parameter.register_hook(lambda g: g * float("nan") if last else g)
    assert not engine.step(batch, 0.5).applied
    handle.remove()
    for name, x in engine.weights().items():
        assert torch.equal(x, weights[name]), name
    assert engine.step(batch, 0.5).applied
    assert all(x.isfinite().all() for x in engine.weights().values())


if __name__ == "__main__":
    main()
