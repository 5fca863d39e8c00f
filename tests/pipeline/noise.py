"""Sequences of noise for every kind of data, without raw files."""

import numpy as np

from pipeline.sequence import DataSpec, Sequence, grey

BINARY = DataSpec(dim=13, length=9, interval=0.2, likelihood="bernoulli", units="on or off")
REAL = DataSpec(dim=3, length=9, interval=0.01, likelihood="gaussian", units="amplitude")
GREY = DataSpec(dim=12, length=9, interval=0.1, likelihood="bernoulli", units="grey", image=(3, 4))


def sequences(spec: DataSpec, count: int = 6, seed: int = 0) -> list[tuple[str, Sequence]]:
    random, made = np.random.default_rng(seed), []
    for i in range(count):
        T = int(random.integers(2, spec.length + 1))
        values = random.random((T, spec.dim)) < 0.4
        if spec.likelihood == "gaussian":
            values = random.normal(size=(T, spec.dim)).astype(np.float32)
        if spec.image:
            values = grey(random.integers(256, size=(T, spec.dim), dtype=np.uint8))
        mask = random.random(T) < 0.8
        times = np.cumsum(random.random(T) + 0.1)
        made.append((f"raw {i}.mid", Sequence(f"folder/s{seed}-{i}", f"gröup {i}", times, values, mask)))
    return made
