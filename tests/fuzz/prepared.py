"""Prepared data sets damaged at random: shards and manifests."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from driftwork.errors import DriftworkError
from driftwork.files import sha256
from pipeline.sequence import DataSpec, Sequence
from pipeline.shards.manifest import MANIFEST, Manifest
from pipeline.shards.shard_files import write_shard
from pipeline.shards.stats import Moments
from pipeline.shards.verify import verify
from tests.fuzz.damage import VALUES, damaged, forged
from tests.fuzz.refusal import attempt

SPECS = [
    DataSpec(dim=13, length=9, interval=0.2, likelihood="bernoulli", units="on or off"),
    DataSpec(dim=3, length=9, interval=0.01, likelihood="gaussian", units="amplitude"),
]


def prepared(folder: Path, spec: DataSpec) -> Manifest:
    """Write a data set of one shard with six sequences."""
    rng, pairs = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(6):
        values = rng.normal(size=(9, spec.dim)).astype(np.float32)
        kept = values > 0 if spec.binary else values
        pairs.append(("raw", Sequence(f"s-{i}", f"g{i}", np.arange(9.0), kept, np.ones(9, np.bool_))))
    shard = write_shard(folder / "train-000000.tar", "train", spec, pairs)
    assert shard is not None
    manifest = Manifest(
        schema_version=1, spec=spec, recipe={"dataset": {"name": "x"}}, stats=Moments.empty(spec.dim).stats(),
        items=6, unreadable=0, inputs={}, shards=(shard,),
    )  # fmt: skip
    (folder / MANIFEST).write_bytes(manifest.encode())
    return manifest


def shards(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Damage shards: every change is detected by the original manifest, and with a matching manifest shards are refused
    or read."""
    outcome: Counter[str] = Counter()
    for n in range(cases):
        spec = SPECS[n % 2]
        manifest = prepared(folder, spec)
        path = folder / manifest.shards[0].file
        good = path.read_bytes()
        data = forged(random, good) if n % 3 == 0 else damaged(random, good)
        path.write_bytes(data)
        assert data == good or attempt(lambda: verify(folder), DriftworkError, path.name) == "refused"
        mended = manifest.shards[0].model_copy(update={"bytes": len(data), "sha256": sha256(path)})
        (folder / MANIFEST).write_bytes(manifest.model_copy(update={"shards": (mended,)}).encode())
        outcome[attempt(lambda: verify(folder), DriftworkError, path.name)] += 1
    return outcome


def manifests(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Damage a value of a manifest, or its bytes."""
    outcome: Counter[str] = Counter()
    good = prepared(folder, SPECS[0]).encode()
    for n in range(cases):
        data = damaged(random, good)
        if n % 2:
            raw = json.loads(good)
            node, key = random.choice(list(places(raw)))
            node[key] = random.choice(VALUES)
            data = json.dumps(raw).encode()
        (folder / MANIFEST).write_bytes(data)
        outcome[attempt(lambda: verify(folder), DriftworkError, str(folder), lines=True)] += 1
    return outcome


def places(node: Any) -> Any:
    for key, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(inner, dict | list):
            yield from places(inner)
