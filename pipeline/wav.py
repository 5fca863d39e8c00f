"""RIFF WAVE files of 16-bit PCM, by the standard library."""

import io
import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.files import aside
from pipeline.sequence import UnreadableError

FULL_SCALE = 32768
"""What an amplitude of 1 is as a 16-bit sample."""


class Pcm(NamedTuple):
    rate: int
    """Samples a second."""
    samples: NDArray[np.int16]
    """[N, channels]"""


def parse_wav(data: bytes) -> Pcm:
    """The samples of a RIFF WAVE file's bytes. Raises `UnreadableError` with the reason."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels, rate, count = (
                file.getsampwidth(), file.getnchannels(), file.getframerate(), file.getnframes(),
            )  # fmt: skip
            content = file.readframes(count)
    except (EOFError, RuntimeError):  # the second from a chunk that reaches beyond the file
        raise UnreadableError("RIFF WAVE: truncated or damaged before the samples") from None
    except wave.Error as error:  # of other codings: `unknown format: 7` is mu-law
        raise UnreadableError(f"RIFF WAVE: {' '.join(str(error).split())}; only 16-bit PCM is read") from None
    if width != 2:
        raise UnreadableError(f"RIFF WAVE: {8 * width}-bit samples; only 16-bit PCM is read")
    if len(content) != 2 * channels * count:
        raise UnreadableError(f"RIFF WAVE: truncated: {len(content) // (2 * channels)} of {count} samples are there")
    return Pcm(rate, np.frombuffer(content, "<i2").astype(np.int16).reshape(count, channels))


def write_wav(path: Path, amplitude: NDArray[np.floating[Any]], rate: int) -> None:
    """Write samples [N] in [-1, 1] as 16-bit mono; what lies outside is clipped, as a loudspeaker would."""
    levels = np.clip(np.rint(amplitude.astype(np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
    with aside(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.astype("<i2").tobytes())
