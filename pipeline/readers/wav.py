"""RIFF WAVE files of 16-bit PCM: read here, since the standard library reads other files on other versions of Python;
written by it."""

import struct
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.files import aside
from pipeline.sequence import UnreadableError

FULL_SCALE = 32768
"""What an amplitude of 1 is as a 16-bit sample."""
ENDLESS = 0x7FFF_F000
"""Lengths of a chunk from here on mean that it goes to the end of the file: a program that writes to a pipe cannot go
back to fill it in, and puts FFFFFFFF, 7FFFF000 or the like. No file that is read at all is so long."""
_PCM, _EXTENSIBLE = 1, 0xFFFE
_SAME = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
"""What follows the two bytes of a plain format's number where it is written as a GUID."""


class Pcm(NamedTuple):
    rate: int
    """Samples a second."""
    samples: NDArray[np.int16]
    """[N, channels]"""


def parse_wav(data: bytes) -> Pcm:
    """The samples of a RIFF WAVE file's bytes. Raises `UnreadableError` with the reason.

    What the outermost chunk says of its length is ignored, as it is wrong in a file that was written to a pipe.
    """
    if data[:4] != b"RIFF" or (data[8:12] != b"WAVE" and len(data) >= 12):
        raise UnreadableError("RIFF WAVE: not a WAVE file")
    form = None
    for name, at, size in _chunks(data):
        if name == b"fmt ":
            form = _form(data[at : at + size])
        elif name == b"data" and form is not None:
            return _samples(data[at : at + size], size, form)
    raise UnreadableError("RIFF WAVE: truncated or damaged before the samples")


class _Form(NamedTuple):
    channels: int
    rate: int


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start of the content, its length) of the chunks of a RIFF file; lengths are even, by a byte of padding."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        yield name, at, size
        at += size + size % 2


def _form(content: bytes) -> _Form:
    """Of a `fmt ` chunk. WAVE_FORMAT_EXTENSIBLE, which some programs always write, holds the coding after it."""
    if len(content) < 16:
        raise UnreadableError("RIFF WAVE: truncated or damaged before the samples")
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
    if coding == _EXTENSIBLE:
        if len(content) < 40:
            raise UnreadableError("RIFF WAVE: a chunk of an extensible format that does not say which")
        coding = int.from_bytes(content[24:26], "little") if content[26:40] == _SAME else _EXTENSIBLE
    if coding != _PCM:
        raise UnreadableError(f"RIFF WAVE: unknown format: {coding}; only 16-bit PCM is read")
    if -(-bits // 8) != 2:
        raise UnreadableError(f"RIFF WAVE: {bits}-bit samples; only 16-bit PCM is read")
    if channels < 1:
        raise UnreadableError("RIFF WAVE: no channels")
    return _Form(channels, rate)


def _samples(content: bytes, size: int, form: _Form) -> Pcm:
    frame = 2 * form.channels
    found = len(content) // frame
    wanted = size // frame if size < ENDLESS else -(-len(content) // frame)
    if found < wanted:
        raise UnreadableError(f"RIFF WAVE: truncated: {found} of {wanted} samples are there")
    samples = np.frombuffer(content, "<i2", found * form.channels).astype(np.int16)
    return Pcm(form.rate, samples.reshape(found, form.channels))


def write_wav(path: Path, amplitude: NDArray[np.floating[Any]], rate: int) -> None:
    """Write samples [N] in [-1, 1] as 16-bit mono; what lies outside is clipped, as a loudspeaker would."""
    levels = np.clip(np.rint(amplitude.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    with aside(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.astype("<i2").tobytes())
