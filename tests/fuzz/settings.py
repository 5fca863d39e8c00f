"""Configs and grids damaged at random."""

import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from driftwork.config_base import dump, load
from driftwork.errors import DriftworkError
from pipeline.fetch.sources import FetchConfig
from tests.fuzz.damage import GRID_LINES, LAUGHS, LINES, damaged
from tests.fuzz.refusal import attempt
from tests.places import ROOT


def configs(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Damage a shipped config, or add a line: it is refused, or its dump reads back to an equal config."""
    from launch.runs.config import RunConfig
    from pipeline.prepare.prepare import PrepareConfig

    kinds = {"prepare": PrepareConfig, "fetch": FetchConfig, "train": RunConfig}
    shipped = [(kinds[kind], path) for kind in kinds for path in sorted((ROOT / "configs" / kind).glob("*.yaml"))]
    outcome: Counter[str] = Counter()
    for n in range(cases):
        cls, seed = random.choice(shipped)
        path = folder / seed.name
        data = damaged(random, seed.read_bytes())
        if n % 2:
            line = [LAUGHS, *LINES][n // 2 % (len(LINES) + 1)].replace("{pwned}", str(folder / "pwned"))
            data = seed.read_bytes() + b"\n" + line.encode() + b"\n"
        path.write_bytes(data)

        def read(cls: Any = cls, path: Path = path) -> None:
            config = load(cls, path, [])
            again = folder / "again.yaml"
            again.write_text(dump(config))
            assert load(cls, again) == config

        outcome[attempt(read, DriftworkError, "" if b"base:" in data else path.name)] += 1
        assert not (folder / "pwned").exists()
    return outcome


GRID = b"""base: ../train/vsdn_vae_lakh_small.yaml
set: {data: nowhere, train: {max_epochs: 2}}
grid: {train.beta: [0.1, 1]}
runs:
  - {model: {free_nats: 0, latent: 8}, train.seed: 1}
"""


def grids(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Damage a grid, or add a line: it is refused as a whole, or each of its trials has its own folder."""
    from launch.sweeps import grid

    outcome: Counter[str] = Counter()
    shutil.copytree(ROOT / "configs/train", folder / "train")
    path = folder / "grids/some.yaml"
    path.parent.mkdir()
    for n in range(cases):
        data = damaged(random, GRID)
        if n % 2:
            line = [*GRID_LINES, LAUGHS, *LINES][n // 2 % (len(LINES) + len(GRID_LINES) + 1)]
            data = GRID + line.replace("{pwned}", str(folder / "pwned")).encode() + b"\n"
        path.write_bytes(data)

        def read(path: Path = path) -> None:
            trials = grid.read([str(path)]).trials
            assert len({trial.folder for trial in trials}) == len(trials) > 0

        outcome[attempt(read, DriftworkError, path.name)] += 1
        assert not (folder / "pwned").exists()
    return outcome
