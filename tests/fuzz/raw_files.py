"""Raw files damaged at random: good files beside them give the same sequences as alone."""

import gzip
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

from driftwork.files import sha256
from pipeline.prepare.build import Entry, Job, build_shard
from pipeline.prepare.guard import Limits
from pipeline.prepare.plan import Recipe, ShardPlan
from pipeline.readers.midi import MidiConfig
from pipeline.readers.mocap import KEPT, MocapConfig
from pipeline.readers.registry import reader
from pipeline.readers.rotating_mnist import read_idx
from pipeline.readers.timit import TimitConfig
from pipeline.sequence import UnreadableError
from pipeline.shards.manifest import Shard
from pipeline.shards.shard_files import write_shard
from tests.fuzz.damage import damaged
from tests.fuzz.refusal import attempt
from tests.pipeline.readers import acclaim, midi_bytes, speech
from tests.places import ROOT

REAL = ROOT.parent / "shared" / "data"
LIMITS = Limits(seconds=10, mib=1024)
GOOD = 4
"""Number of files of which one is left undamaged."""


def midi_files(n: int, real: bool) -> dict[str, bytes]:
    found = sorted((REAL / "lakh").rglob("*.mid")) if real else []
    data = midi_bytes.song(n) if n % 3 else midi_bytes.piece(Random(n))
    return {f"{n:04d}.mid": found[n % len(found)].read_bytes() if found and n % 2 else data}


def speech_files(n: int, real: bool) -> dict[str, bytes]:
    found = sorted((REAL / "timit").rglob("*.wav")) if real else []
    data = speech.sphere(speech.voice(16000, seed=n))
    if n % 2:
        data = found[n % len(found)].read_bytes() if found and n % 4 == 1 else riff(n)
    return {f"dr1-f{n:04d}/sa1.wav": data}


def riff(n: int) -> bytes:
    """Return a WAVE file: plain, extensible, or as a program writes it to a pipe."""
    file, form = io.BytesIO(), "WAVEX" if n % 3 == 1 else "WAV"
    soundfile.write(file, speech.voice(16000, seed=n), 16000, format=form, subtype="PCM_16")
    data = file.getvalue()
    return data if n % 3 else data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]


def motion_files(n: int, real: bool) -> dict[str, bytes]:
    found = sorted((REAL / "mocap").rglob("*.amc")) if real else []
    bones, trial = acclaim.cmu().encode(), acclaim.walk(20, seed=n).encode()
    if found and n % 2:
        bones, trial = found[0].with_name("35.asf").read_bytes(), found[n % len(found)].read_bytes()
    return {f"{n:04d}/35_01.amc": trial, f"{n:04d}/35.asf": bones}


def array_files(n: int, real: bool) -> dict[str, bytes]:
    from scipy.io import savemat

    arrays = np.random.default_rng(n).normal(size=(2, 4, len(KEPT)))
    buffer = io.BytesIO()
    savemat(buffer, {"Xtr": arrays, "Xval": arrays, "Xtest": arrays}, do_compression=bool(n % 2))
    return {f"{n:04d}.mat": buffer.getvalue()}


MEDIA: dict[str, tuple[Any, Callable[[int, bool], dict[str, bytes]]]] = {
    "midi": (MidiConfig(seconds=6.0), midi_files),
    "speech": (TimitConfig(), speech_files),
    "motion": (MocapConfig(), motion_files),
    "arrays": (MocapConfig(frames=4), array_files),
}


def media(folder: Path, random: Random, cases: int, kind: str, real: bool = False) -> Counter[str]:
    """Read files of a kind into one shard, three damaged to one good: the good ones give the same samples as alone."""
    config, make = MEDIA[kind]
    raw, out = folder / kind, folder / f"{kind}-out"
    out.mkdir()
    good = set()
    for n in range(cases + -(-cases // (GOOD - 1))):
        files = make(n, real)
        if n % GOOD:
            victim = random.choice(sorted(files))
            files[victim] = damaged(random, files[victim])
        else:
            good |= files.keys()
        for name, data in files.items():
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(data)
    before = contents(folder, out)
    entry, items = build(config, raw, out)
    assert contents(folder, out) == before, "something was written beside the shard"

    reasons = {bad.file: bad.reason for bad in entry.unreadable}
    assert set(reasons) <= {item.name for item in items}
    for name, reason in reasons.items():
        assert reason, name
        assert reason.isprintable(), f"{name}: {reason!r}"
        assert "the parser failed" not in reason, f"{name}: {reason}"  # a reader's own mistake
    assert entry.shard is not None
    whole = [item for item in items if item.files[0] in good]
    pairs = [(item.name, sequence) for item in whole for sequence in reader(config).read(raw, item)]
    alone = write_shard(out / "good.tar", "train", reader(config).spec(), pairs)
    assert alone is not None
    found, wanted = samples(out / "train-000000.tar", entry.shard), samples(out / "good.tar", alone)
    assert wanted == {key: found.get(key) for key in wanted}, "a good file is missing, or came out differently"
    outcome = Counter("crash" if "crashed" in reason else "unreadable" for reason in reasons.values())
    return outcome + Counter(read=len(items) - len(whole) - len(reasons), good=len(whole))


def build(config: Any, raw: Path, out: Path) -> tuple[Entry, list[Any]]:
    made = reader(config)
    items = made.find(raw)
    recipe = Recipe(dataset=config, title="damaged", licence="none")
    job = Job(recipe, made, raw, out, LIMITS)
    return build_shard(job, ShardPlan("train-000000.tar", "train", tuple(items))), items


def samples(path: Path, shard: Shard) -> dict[str, bytes]:
    """Map each key to its bytes in the tar."""
    data, found = path.read_bytes(), {}
    for index in range(shard.samples):
        offset, size = shard.span(index)
        sample = data[offset : offset + size].rstrip(b"\0")  # the last one has the end of the tar behind it
        found[sample[: sample.index(b".")].decode()] = sample
    return found


def contents(folder: Path, besides: Path) -> dict[Path, str]:
    return {path: sha256(path) for path in folder.rglob("*") if path.is_file() and besides not in path.parents}


def idx(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Damage files of MNIST's format, gzipped or not."""
    outcome: Counter[str] = Counter()
    good = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(5 * 28 * 28)
    for n in range(cases):
        path = folder / ("digits.gz" if n % 2 else "digits")
        data = damaged(random, gzip.compress(good) if n % 2 else good)
        if n == 5:  # 300 MB of nothing in 300 kB
            data = gzip.compress(bytes(10**6), 9) * 300
        path.write_bytes(data)
        outcome[attempt(lambda path=path: read_idx(path, 3), UnreadableError, path.name)] += 1
    return outcome
