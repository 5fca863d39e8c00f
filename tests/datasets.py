"""Small prepared data sets for tests, written by the project's own writer."""

import json

import numpy as np

from driftwork.files import aside
from pipeline.readers.mocap import Mocap, MocapConfig
from pipeline.readers.timit import Timit, TimitConfig
from pipeline.sequence import SPLITS, DataSpec, Sequence, grey
from pipeline.shards.manifest import MANIFEST, Manifest
from pipeline.shards.shard_files import write_shard
from pipeline.shards.stats import Moments
from pipeline.table_spec import Static, TableSpec
from tests.pipeline.readers import acclaim


def write_rolls(folder, *, D=128, T=20, interval=0.2, seed=0, train=(10, 1, 18), val=(6,), test=(7,)):
    """Write random piano rolls of 6 to T frames with sustained notes, a tenth of the frames missing.

    `train`, `val` and `test` are the numbers of samples per shard; two successive samples are one song. Returns the
    manifest and the sequences by key.
    """
    spec = DataSpec(dim=D, length=T, interval=interval, likelihood="bernoulli", units="sounding (0 or 1)", kind="notes")
    rng = np.random.default_rng(seed)
    shards = [
        (split, [_roll(f"{split}{k}", i, rng, int(rng.integers(6, T + 1)), D, interval) for i in range(size)])
        for split, sizes in (("train", train), ("val", val), ("test", test))
        for k, size in enumerate(sizes)
    ]
    return _store(folder, "lakh", spec, shards)


def write_films(folder, *, side=8, T=7, count=6):
    """Write films of noise in which a tenth of the frames is missing. Returns the same kinds of values as
    `write_rolls`."""
    spec = DataSpec.of_pictures(side, T, 0.1)
    rng = np.random.default_rng(0)
    shards = []
    for split in SPLITS:
        films = []
        for i in range(count):
            mask = rng.random(T) < 0.9
            mask[0] = True
            values = grey(rng.integers(0, 256, (T, side**2), np.uint8))
            films.append(Sequence(f"{split}-{i}", f"{split}-{i}", np.arange(T) * 0.1, values, mask))
        shards.append((split, films))
    return _store(folder, "bouncing_balls", spec, shards)


def write_walks(folder, *, lengths=(20, 14), skeleton=True):
    """Write walks of noise with an invented skeleton, or without one as from a .mat file. Returns the same kinds of
    values as `write_rolls`."""
    reader = Mocap(MocapConfig(frames=max(lengths)))
    raw = folder.with_name(f"{folder.name}-raw")
    raw.mkdir(parents=True)
    (raw / "35.asf").write_text(acclaim.cmu())
    numbers = {"train": 1, "val": 28, "test": 31}
    for first in numbers.values():
        for i, length in enumerate(lengths):
            (raw / f"35_{first + i:02d}.amc").write_text(acclaim.walk(length, seed=first + i))
    walks = [(item.split, reader.read(raw, item)[0]) for item in reader.find(raw)]
    if not skeleton:
        walks = [(split, walk._replace(about=None)) for split, walk in walks]
    return _store(folder, "mocap", reader.spec(), [(s, [w for split, w in walks if split == s]) for s in numbers])


def write_speech(folder, *, counts=(16000, 9900, 16000, 16000)):
    """Write sounds with these counts of samples, from silence to noise, like TIMIT. Returns the same kinds of values as
    `write_rolls`."""
    rng, shards = np.random.default_rng(0), []
    for split in SPLITS:
        sounds = []
        for i, count in enumerate(counts):
            pcm = np.rint(10.0**i * rng.standard_normal((count // 100, 100))).astype(np.int16)
            times, mask = np.arange(len(pcm)) / 160, np.ones(len(pcm), np.bool_)
            sounds.append(Sequence(f"{split}-{i}", f"{split}-{i}", times, pcm.astype(np.float32) / 32768, mask))
        shards.append((split, sounds))
    return _store(folder, "timit", Timit(TimitConfig()).spec(), shards)


def write_table(folder, *, D=3, T=8, count=4, static=False, share=0.5, likelihood="gaussian", binary=()):
    """Write a table of D channels, each observed at about a `share` of the irregular times of a series. If `static` is
    set, each series has a number and a category; every fourth series lacks the number. Channels in `binary` are 0 or
    1."""
    names = tuple(f"c{d}" for d in range(D))
    statics = (Static(column="age", categories=None), Static(column="sex", categories=("f", "m"))) if static else ()
    table = TableSpec(
        channels=names, units=(), binary=binary, layout="wide", series="series", time="time", time_unit="s", zone=None,
        static=statics,
    )  # fmt: skip
    spec = DataSpec(
        dim=D, length=T, interval=1.0, likelihood=likelihood, units="value", kind="table", table=table
    )  # fmt: skip
    rng, splits = np.random.default_rng(0), []
    for split in ("train", "val", "test"):
        series = []
        for i in range(count):
            mask = rng.random((T, D)) < share
            mask[:, 0] |= ~mask.any(1)
            values = np.where(mask, rng.normal(size=(T, D)), 0).astype(np.float32)
            values = values > 0 if spec.binary else values
            for channel in map(names.index, binary):
                values[:, channel] = values[:, channel] > 0
            numbers = [None if i % 4 == 3 else 50.0 + 10 * i, i % 2, 1 - i % 2] if static else []
            about = {"series": f"{split} {i}", "start": 0.0, "static": numbers}
            times = np.cumsum(rng.uniform(0.2, 1.8, T))
            series.append(Sequence(f"{split}-{i}", f"{split} {i}", times, values, mask, about))
        splits.append((split, series))
    return _store(folder, "table", spec, splits)


def quarantined(folder):
    """Return the reason for each unreadable file, by name."""
    entries = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    reasons = {entry["file"]: entry["reason"] for entry in entries}
    assert len(reasons) == len(entries)
    assert not any("\n" in reason for reason in reasons.values())
    return reasons


def _store(folder, name, spec, splits):
    """Write a shard for each pair of (split, sequences), and return the manifest and the sequences by key."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, written, moments = [], {}, Moments.empty(spec.dim)
    for k, (split, sequences) in enumerate(splits):
        shards.append(write_shard(folder / f"{split}-{k:06d}.tar", split, spec, [("raw", s) for s in sequences]))
        written |= {s.key: s for s in sequences}
        if split == "train":
            for s in sequences:
                moments = moments.merge(Moments.of_sequence(s))
    manifest = Manifest(
        schema_version=1, spec=spec, recipe={"dataset": {"name": name}}, stats=moments.stats(),
        shards=tuple(shards), unreadable=0, items=len(written), inputs={},
    )  # fmt: skip
    with aside(folder / MANIFEST) as temporary:
        temporary.write_bytes(manifest.encode())
    return manifest, written


def _roll(shard, i, rng, T, D, interval):
    values = np.zeros((T, D), bool)
    values[0] = rng.random(D) < 0.1
    for t in range(1, T):
        fresh = rng.random(D) < 0.3
        values[t] = np.where(fresh, rng.random(D) < 0.1, values[t - 1])
    mask = rng.random(T) < 0.9
    mask[:2] = True
    return Sequence(f"{shard}-{i:02d}", f"{shard}-song{i // 2}", np.arange(T) * interval + 3.0, values, mask)
