"""TIMIT, read speech of 630 speakers of American English: the corpus as distributed by the LDC, and samples of it.

A frame is 100 samples of 16 kHz speech; a sequence is one second, 160 frames. A sentence is cut into sequences from its
start. The rest becomes a shorter sequence of whole frames if it has at least `MIN_FRAMES`; otherwise it is dropped.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from driftwork.files import printable
from driftwork.registry import Named
from pipeline.readers.raw_files import names_below, only_folder, read_raw
from pipeline.readers.sphere import MAGIC, parse_sphere
from pipeline.readers.wav import FULL_SCALE, Pcm, parse_wav
from pipeline.sequence import DataSpec, Item, Sequence, Split, UnreadableError, folder

RATE = 16_000
"""Samples per second."""
FRAME = 100
"""Samples per frame."""
LENGTH = 160
"""Frames of a full sequence."""
MIN_FRAMES = 40
"""Minimum number of frames of a sequence, a quarter of a second. At the lowest published ratio, 25 %, ten of them are
observed."""
MAX_BYTES = 64 * 2**20
_ALIGNED_OVER = 200
"""Number of samples over which the alignment of the bytes is checked."""
CORPUS = re.compile(r"(?:.*/)?(?P<half>train|test)/(?P<region>dr\d)/(?P<speaker>[^/]+)/(?P<sentence>[^/]+)", re.I)
FLAT = re.compile(r"(?:.*/)?(?P<region>dr\d)-(?P<speaker>[^/]+)/(?P<sentence>[^/]+)", re.I)
LAYOUTS = "TRAIN|TEST/DRn/SPEAKER/*.WAV or drn-speaker/*.wav"
SPLITS: dict[str, Split | None] = {"train": None, "test": "test", "flat": None}
"""Split by layout: the corpus defines TEST itself; speakers of TRAIN and of a flat sample are assigned by hash."""


class TimitConfig(Named):
    name: Literal["timit"] = "timit"
    """Data set: TIMIT, or a sample of it."""


@dataclass(frozen=True)
class Timit:
    """Reader of a folder of sentences in NIST SPHERE or RIFF WAVE, which are distinguished by their first bytes.

    Values are float32 [T, 100] in [-1, 1)."""

    config: TimitConfig

    def spec(self) -> DataSpec:
        return DataSpec(
            dim=FRAME,
            length=LENGTH,
            interval=FRAME / RATE,
            likelihood="gaussian",
            units="amplitude (1 is full scale)",
            audio_rate=RATE,
            kind="speech",
        )

    def find(self, source: Path | None) -> list[Item]:
        """Return every .wav below `source`, upper or lower case, with its speaker as the group.

        Raises `DriftworkError` if no file is laid out as in the corpus or the flat sample, if half of the corpus is
        missing, or if a sentence occurs twice.
        """
        root = only_folder(source, LAYOUTS)
        names = names_below(root, ".wav")
        if not names:
            raise DriftworkError(f"source={root}: no .wav file in it or below it; give another folder")
        there = set(names)
        names = [name for name in names if not (name[:-4].lower().endswith(".wav") and name[:-4] in there)]
        sentences = {name: found for name in names if (found := CORPUS.fullmatch(name) or FLAT.fullmatch(name))}
        if not sentences:
            raise DriftworkError(
                f"source={root}: no path has the form {LAYOUTS} (the first is {printable(names[0])}); "
                "give the folder of the corpus"
            )
        _check(root, sentences)
        return [_item(name, sentences.get(name)) for name in names]

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        """Read the sequences of a sentence, one second each, in order."""
        found = CORPUS.fullmatch(item.name) or FLAT.fullmatch(item.name)
        if found is None:
            raise UnreadableError(f"its path does not have the form {LAYOUTS}")
        return _seconds(_key(found), item.group, _samples(folder(source) / item.name))

    def read_file(self, path: Path) -> list[Sequence]:
        stem = re.sub(r"[^A-Za-z0-9-]+", "_", path.stem)
        return _seconds(stem, stem, _samples(path))


def _seconds(key: str, group: str, samples: NDArray[np.int16]) -> list[Sequence]:
    """Return the sequences of a sentence."""
    frames = _frames(samples)
    return [
        Sequence(
            key=f"{key}-{second:02d}",
            group=group,
            times=np.arange(len(window)) * FRAME / RATE,
            values=window,
            mask=np.ones(len(window), np.bool_),
        )
        for second in range(-(-len(frames) // LENGTH))
        if len(window := frames[second * LENGTH : (second + 1) * LENGTH]) >= MIN_FRAMES
    ]


def _samples(path: Path) -> NDArray[np.int16]:
    pcm = _parse(read_raw(path, MAX_BYTES, "a sentence"))
    if pcm.samples.shape[1] != 1:
        raise UnreadableError(f"{pcm.samples.shape[1]} channels; only mono is read")
    if pcm.rate != RATE:
        raise UnreadableError(f"{pcm.rate} samples per second, not {RATE}")
    if not len(pcm.samples):
        raise UnreadableError("holds no samples")
    if len(pcm.samples) < MIN_FRAMES * FRAME:
        raise UnreadableError(f"too short: {len(pcm.samples)} samples, under {MIN_FRAMES * FRAME}")
    _check_alignment(pcm.samples[:, 0])
    return pcm.samples[:, 0]


def _check_alignment(samples: NDArray[np.int16]) -> None:
    """Raise `UnreadableError` for a file that lost a byte.

    From the loss on, each sample is half of one sample and half of the next, which is noise at full scale. The louder
    files of NLTK's sample are damaged like this (a conversion of line ends removed the CR of CR LF).

    Such noise changes by a third of the range from sample to sample, and speech changes little. If the same bytes, read
    with an offset of one, change a quarter as much, the offset ones are the samples. Pulses and 8-bit sound, with many
    bytes of 0, also change little with an offset, but do not change so much without it.
    """
    steps = []
    for shift in (0, 1):
        bytes_ = samples.astype("<i2").tobytes()[shift : 2 * len(samples) - shift]
        moves = np.abs(np.diff(np.frombuffer(bytes_, "<i2").astype(np.int32)))
        whole = len(moves) // _ALIGNED_OVER
        steps.append(moves[: whole * _ALIGNED_OVER].reshape(whole, _ALIGNED_OVER).mean(1))
    count = min(len(steps[0]), len(steps[1]))
    misread = np.flatnonzero((4 * steps[1][:count] < steps[0][:count]) & (steps[0][:count] > FULL_SCALE / 4))
    if len(misread):
        second = misread[0] * _ALIGNED_OVER / RATE
        raise UnreadableError(f"a byte is missing at about {second:.2f} s: the samples after it are cut in two")


def _parse(data: bytes) -> Pcm:
    if not data:
        raise UnreadableError("an empty file")
    if data.startswith(MAGIC):
        return parse_sphere(data)
    if data.startswith(b"RIFF"):
        return parse_wav(data)
    raise UnreadableError("neither NIST SPHERE nor RIFF WAVE")


def _frames(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the whole frames [T, 100] of the samples [N]. They are exact, since a float32 holds 24 bits."""
    whole = len(samples) // FRAME
    return samples[: whole * FRAME].reshape(whole, FRAME).astype(np.float32) / np.float32(FULL_SCALE)


def _item(name: str, found: re.Match[str] | None) -> Item:
    if found is None:  # for the quarantine; a given split keeps it out of the assignment by hash
        return Item(name, name, (name,), "train")
    return Item(name, _speaker(found), (name,), SPLITS[_half(found)])


def _half(found: re.Match[str]) -> str:
    return (found.groupdict().get("half") or "flat").lower()


def _speaker(found: re.Match[str]) -> str:
    return f"{found['region']}-{found['speaker']}".lower()


def _key(found: re.Match[str]) -> str:
    sentence = re.sub(r"(\.wav)+$", "", found["sentence"].lower())
    return re.sub(r"[^a-z0-9-]+", "_", f"{_speaker(found)}-{sentence}")


def _check(root: Path, sentences: dict[str, re.Match[str]]) -> None:
    """Raise `DriftworkError` if a split would be empty, a speaker in two splits, or a sentence counted twice."""
    halves = {_half(found) for found in sentences.values()}
    if len(halves) == 1 and halves != {"flat"}:
        here, missing = ("TRAIN", "TEST") if halves == {"train"} else ("TEST", "TRAIN")
        raise DriftworkError(f"source={root}: holds {here} but no {missing}; give the folder that holds both")
    if "flat" in halves and len(halves) > 1:
        raise DriftworkError(
            f"source={root}: holds TRAIN or TEST and drn-speaker folders too; give a folder of one kind"
        )
    sayings: dict[str, str] = {}
    homes: dict[str, str] = {}
    for name, found in sentences.items():
        other = sayings.setdefault(_key(found), name)
        if other != name:
            raise DriftworkError(
                f"source={root}: {printable(other)} and {printable(name)} are the same sentence; remove one"
            )
        other = homes.setdefault(_speaker(found), name)
        if _half(found) != _half(sentences[other]):
            raise DriftworkError(
                f"source={root}: {printable(other)} and {printable(name)} put a speaker into two splits; remove one"
            )
