"""RIFF WAVE files of 16-bit PCM. They are parsed here, since the standard library accepts different files in different
versions of Python. The standard library writes them."""

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
"""The 16-bit value of an amplitude of 1."""
ENDLESS = 0x7FFF_F000
"""Smallest chunk length that means "to the end of the file", in bytes. A program that writes to a pipe cannot fill in
the length later, and writes FFFFFFFF, 7FFFF000 or the like. No readable file is so long."""
_PCM, _EXTENSIBLE = 1, 0xFFFE
_SAME = bytes.fromhex("0000 0000 1000 8000 00aa 0038 9b71")
"""The bytes of a GUID that follow the two bytes of a plain format's number."""


class Pcm(NamedTuple):
    """Samples of uncompressed sound."""

    rate: int
    """Sampling rate, in samples per second."""
    samples: NDArray[np.int16]
    """[N, channels] samples."""


def parse_wav(data: bytes) -> Pcm:
    """Parse the samples of a RIFF WAVE file's bytes. Raises `UnreadableError` with the reason.

    The length of the outermost chunk is ignored, since it is wrong in a file that was written to a pipe.
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
    """Yield (name, start of the content, its length) of the chunks of a RIFF file, which are padded to even lengths."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        yield name, at, size
        at += size + size % 2


def _form(content: bytes) -> _Form:
    """Parse a `fmt ` chunk. In WAVE_FORMAT_EXTENSIBLE, which some programs always write, the coding is in a later
    field."""
    if len(content) < 16:
        raise UnreadableError("RIFF WAVE: truncated or damaged before the samples")
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
    if coding == _EXTENSIBLE:
        if len(content) < 40:
            raise UnreadableError("RIFF WAVE: an extensible format without its coding")
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
    """Write samples [N] in [-1, 1] as 16-bit mono at `rate` samples per second; values outside are clipped."""
    levels = np.clip(np.rint(amplitude.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    with aside(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.astype("<i2").tobytes())
