"""Read a folder of MIDI files, such as the Lakh data set, as piano rolls."""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from driftwork.errors import DriftworkError
from driftwork.registry import Named
from pipeline.readers.piano_roll import PITCHES, check_rate, roll
from pipeline.readers.raw_files import names_below, read_raw
from pipeline.sequence import DataSpec, Item, Sequence, UnreadableError, folder

SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
"""Endings of the names of MIDI files, in upper or lower case; .kar has lyrics, .rmi is wrapped in RIFF."""
MAX_BYTES = 16 * 2**20
MIN_SECONDS = 8.0
"""Length of the shortest sequence in seconds, or a quarter of the full length if that is less. A shorter tail would
have the same weight in a score as a whole minute."""


class MidiConfig(Named):
    name: Literal["midi", "lakh"] = "midi"
    """Data set: a folder of MIDI files, such as Lakh, as piano rolls. `lakh` is an earlier name of `midi`."""
    rate: float = Field(5.0, gt=0, le=100)
    """Rate of the piano rolls, in frames per second."""
    seconds: float = Field(60.0, gt=0, le=3600)
    """Length of a sequence, in seconds. The last sequence of a piece may be shorter."""
    min_seconds: float | None = Field(None, ge=0)
    """Length of the shortest sequence, in seconds. A shorter last sequence is dropped, and a shorter piece is
    unreadable. Null takes a quarter of `seconds`, at most 8 seconds; at 5 frames per second these are 40 frames, of
    which 10 are observed at a ratio of 0.25."""

    @model_validator(mode="after")
    def _exact(self) -> Self:
        check_rate(self.rate)
        if self.min_seconds is not None and self.min_seconds > self.seconds:
            raise ValueError(f"min_seconds={self.min_seconds:g} is above seconds={self.seconds:g}; lower min_seconds")
        if self.length < 2 or self.length != self.seconds * self.rate:
            raise ValueError(
                f"seconds={self.seconds} at rate={self.rate} is not a whole number of frames, at least 2; change one"
            )
        return self

    @property
    def length(self) -> int:
        """Number of frames of a full sequence."""
        return int(self.seconds * self.rate)

    @property
    def shortest(self) -> int:
        """Number of frames of the shortest sequence, at least two."""
        seconds = min(MIN_SECONDS, self.seconds / 4) if self.min_seconds is None else self.min_seconds
        return max(2, math.ceil(Fraction(str(seconds)) * Fraction(str(self.rate))))  # exact: 0.55 * 100 > 55


@dataclass(frozen=True)
class Midi:
    """Reader of a folder of MIDI files: bool [T, 128], all tracks but the drums merged."""

    config: MidiConfig

    def spec(self) -> DataSpec:
        return DataSpec(
            dim=PITCHES,
            length=self.config.length,
            interval=1 / self.config.rate,
            likelihood="bernoulli",
            units="MIDI pitch sounding (0 or 1)",
            kind="notes",
        )

    def find(self, source: Path | None) -> list[Item]:
        """Return every MIDI file below `source`, or `source` alone if it is one. The song is the path without suffix
        and version (`Title.2.mid`)."""
        names = names_below(source, *SUFFIXES)
        if not names:
            endings = ", ".join(SUFFIXES)
            raise DriftworkError(f"source={source}: no MIDI file ({endings}) in it or below it; give another folder")
        return [Item(name, group=_song(name), files=(name,)) for name in names]

    def read_file(self, path: Path) -> list[Sequence]:
        return self.read(path, Item(path.name, group=_song(path.name), files=(path.name,)))

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        """Return the sequences of at most `seconds`, in order; a tail of under `min_seconds` is dropped."""
        frames = roll(read_raw(folder(source) / item.name, MAX_BYTES, "a MIDI file"), self.config.rate)
        key, length, shortest = _key(item.name), self.config.length, self.config.shortest
        if len(frames) < shortest:
            raise UnreadableError(f"too short: {len(frames)} frames, under {shortest} (dataset.min_seconds)")
        windows = [frames[at : at + length] for at in range(0, len(frames) - shortest + 1, length)]
        return [
            Sequence(
                key=f"{key}-{number:05d}",
                group=item.group,
                times=np.arange(len(window)) / self.config.rate,
                values=window,
                mask=np.ones(len(window), np.bool_),
            )
            for number, window in enumerate(windows)
        ]


def _song(name: str) -> str:
    return re.sub(r"\.\d+$", "", str(PurePosixPath(name).with_suffix("")))


def _key(name: str) -> str:
    """Return a readable, unique key that has only characters allowed by WebDataset."""
    slug = re.sub(r"[^A-Za-z0-9]+", "_", str(PurePosixPath(name).with_suffix("")))[-48:].strip("_")
    return f"{slug}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
