"""Raw files, shards, manifests and configs damaged at random: `python -m tests.fuzz CASES SEED`.

Whatever is in a file, it is read, or refused in one line that names it; the files beside it are read as ever. No
traceback, no crash, no hang, nothing loaded that could run, and nothing written but where the result goes. MIDI files
that are not damaged are read as other readers do.
"""

import gzip
import io
import json
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

from driftwork.config_base import dump, load
from driftwork.errors import DriftworkError
from driftwork.files import sha256
from pipeline.fetch.sources import FetchConfig
from pipeline.prepare.build import Entry, Job, build_shard
from pipeline.prepare.guard import Limits
from pipeline.prepare.plan import Recipe, ShardPlan
from pipeline.readers.midi import MidiConfig
from pipeline.readers.mocap import KEPT, MocapConfig
from pipeline.readers.registry import reader
from pipeline.readers.rotating_mnist import read_idx
from pipeline.readers.timit import TimitConfig
from pipeline.sequence import DataSpec, Sequence, UnreadableError
from pipeline.shards.manifest import MANIFEST, Manifest, Shard
from pipeline.shards.shard_files import write_shard
from pipeline.shards.stats import Moments
from pipeline.shards.verify import verify
from tests import fuzz_midi
from tests.damage import GRID_LINES, LAUGHS, LINES, VALUES, damaged, forged
from tests.pipeline.readers import acclaim, midi_bytes, speech
from tests.places import ROOT

REAL = ROOT.parent / "shared" / "data"
LIMITS = Limits(seconds=10, mib=1024)
GROWTH_MIB = 1024
"""By which reading bad files may enlarge this process."""
GOOD = 4
"""Every so many files are left as they are."""


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
    """Plain, extensible, or as a program writes it to a pipe."""
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
    """Files of a kind, three damaged to one good, in one shard: what the good ones give is what they give alone."""
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
    """Key -> its bytes in the tar."""
    data, found = path.read_bytes(), {}
    for index in range(shard.samples):
        offset, size = shard.span(index)
        sample = data[offset : offset + size].rstrip(b"\0")  # the last one has the end of the tar behind it
        found[sample[: sample.index(b".")].decode()] = sample
    return found


def contents(folder: Path, besides: Path) -> dict[Path, str]:
    return {path: sha256(path) for path in folder.rglob("*") if path.is_file() and besides not in path.parents}


def idx(folder: Path, random: Random, cases: int) -> Counter[str]:
    """MNIST's format, gzipped or not."""
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


def attempt(read: Callable[[], Any], refusal: type[Exception], name: str, lines: bool = False) -> str:
    """`read`, or `refused`: in one line (one a file, with `lines`) that names it."""
    try:
        read()
    except refusal as error:
        for line in str(error).split("\n") if lines else [str(error)]:
            assert line.isprintable(), repr(line)
            assert name in line, line
        return "refused"
    return "read"


SPECS = [
    DataSpec(dim=13, length=9, interval=0.2, likelihood="bernoulli", units="on or off"),
    DataSpec(dim=3, length=9, interval=0.01, likelihood="gaussian", units="amplitude"),
]


def prepared(folder: Path, spec: DataSpec) -> Manifest:
    """A data set of one shard of six sequences."""
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
    """A shard against its manifest, which no change escapes; and against one that was mended to it."""
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
    """A value of it, or its bytes, are others."""
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


def configs(folder: Path, random: Random, cases: int) -> Counter[str]:
    """Shipped configs with a line too many, or damaged: refused, or equal to what their dump reads back as."""
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
    """A grid with a line too many, or damaged: refused as a whole, or cells that each have a folder of their own."""
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
            cells = grid.read([str(path)]).cells
            assert len({cell.folder for cell in cells}) == len(cells) > 0

        outcome[attempt(read, DriftworkError, path.name)] += 1
        assert not (folder / "pwned").exists()
    return outcome


OTHERS = (idx, shards, manifests, configs, grids)


def everything(folder: Path, cases: int, seed: int, real: bool) -> dict[str, Counter[str]]:
    """`cases` of each kind. Raises `AssertionError`, or whatever escaped a reader."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {kind: media(folder, Random(f"{seed} {kind}"), cases, kind, real) for kind in MEDIA}
    for fuzz in OTHERS:
        name = fuzz.__name__
        (folder / name).mkdir()
        found[name] = fuzz(folder / name, Random(f"{seed} {name}"), cases)
    found["midi frames"] = fuzz_midi.compare(Random(f"{seed} midi frames"), cases)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < GROWTH_MIB, f"{grown} MiB more"
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for kind, outcome in everything(Path(temporary), int(sys.argv[1]), int(sys.argv[2]), real=True).items():
            print(f"{kind}: {', '.join(f'{n} {what}' for what, n in sorted(outcome.items()))}")
