"""Small prepared data sets for tests, written by the project's own writer."""

import numpy as np

from pipeline.files import aside
from pipeline.manifest import MANIFEST, Manifest
from pipeline.sequence import DataSpec, Sequence
from pipeline.shards import write_shard
from pipeline.stats import Moments


def write_rolls(folder, *, D=128, T=20, interval=0.2, seed=0, train=(10, 1, 18), val=(6,), test=(7,)):
    """Random sticky piano rolls of 6 to T frames, a tenth of the frames missing; the numbers are samples a shard.

    Returns the manifest and the sequences by key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = DataSpec(dim=D, length=T, interval=interval, likelihood="bernoulli", units="sounding (0 or 1)")
    rng = np.random.default_rng(seed)
    shards, written, moments = [], {}, Moments.empty(D)
    for split, sizes in (("train", train), ("val", val), ("test", test)):
        for k, size in enumerate(sizes):
            sequences = [
                _roll(f"{split}{k}-{i:02d}", rng, int(rng.integers(6, T + 1)), D, interval) for i in range(size)
            ]
            shards.append(write_shard(folder / f"{split}-{k:06d}.tar", split, spec, [("raw", s) for s in sequences]))
            written |= {s.key: s for s in sequences}
            if split == "train":
                for s in sequences:
                    moments = moments.merge(Moments.of(s.values, s.mask))
    manifest = Manifest(
        schema_version=1, spec=spec, recipe={"dataset": {"name": "lakh"}}, stats=moments.stats(),
        shards=tuple(shards), unreadable=0, items=len(written), inputs={},
    )  # fmt: skip
    with aside(folder / MANIFEST) as temporary:
        temporary.write_bytes(manifest.encode())
    return manifest, written


def _roll(key, rng, T, D, interval):
    values = np.zeros((T, D), bool)
    values[0] = rng.random(D) < 0.1
    for t in range(1, T):
        fresh = rng.random(D) < 0.3
        values[t] = np.where(fresh, rng.random(D) < 0.1, values[t - 1])
    mask = rng.random(T) < 0.9
    mask[:2] = True
    return Sequence(key, key, np.arange(T) * interval + 3.0, values, mask)
