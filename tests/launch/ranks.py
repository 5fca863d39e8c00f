"""What test_engine.py runs under the launcher, on one rank and on two: `python -m tests.launch.ranks DATA OUT`."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from launch import run_folder, streams
from launch.config import OptimConfig
from launch.engine import Engine, join_ranks, leave
from models.config_base import load
from pipeline.manifest import read_manifest
from tests.launch.tiny import TINY


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    ranks = join_ranks()
    config = load(*TINY, [f"data={data}", f"out={out}", "ranks=1"])
    manifest = read_manifest(data)
    for stage in (0, 1, 2):
        engine = Engine(
            run_folder.model_for(config, manifest), OptimConfig(lr=3e-3, zero_stage=stage, clip_norm=0.5), ranks, 20
        )
        stream = streams.training(config, manifest, ranks)
        norms = [
            engine.step(batch, 0.5).grad_norm for epoch in range(5) for batch in stream.epoch(epoch)
        ]  # 5 epochs of 4 steps, the last of each short
        assert len(norms) == 20
        weights = {name: x.detach().clone() for name, x in engine.module.state_dict().items()}
        if ranks.rank == 0:
            save_file({**weights, "norms": torch.tensor(norms)}, out / f"stage{stage}-of{ranks.world}.safetensors")
        refuse_nan(engine, next(stream.epoch(0)), weights)
    leave()


def refuse_nan(engine: Engine, batch, weights) -> None:
    """NaN on the last rank alone, in the loss and then in a gradient: no rank updates, all stay finite."""
    last = engine.ranks.rank == engine.ranks.world - 1
    poisoned = batch._replace(values=batch.values * float("nan")) if last else batch
    assert not engine.step(poisoned, 0.5).applied
    handle = engine.module.decoder.linear.bias.register_hook(lambda g: g * float("nan") if last else g)
    assert not engine.step(batch, 0.5).applied
    handle.remove()
    for name, x in engine.module.state_dict().items():
        assert torch.equal(x, weights[name]), name
    assert engine.step(batch, 0.5).applied
    assert all(x.isfinite().all() for x in engine.module.state_dict().values())


if __name__ == "__main__":
    main()
