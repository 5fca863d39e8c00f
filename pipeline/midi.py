"""MIDI bytes to piano rolls, and a piano roll back to MIDI.

Frame k lies at k / rate seconds and holds pitch p iff a note of p outside the drum channel has
start <= k / rate < end. Times follow the tempo map in integers (ticks x microseconds per quarter), so that no frame is
decided by rounding.
"""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import symusic
from numpy.typing import NDArray

from pipeline.files import aside
from pipeline.sequence import UnreadableError

PITCHES = 128
MAX_HOURS = 4
"""Longer pieces are refused: a note of a few bytes may claim a length of years."""
DEFAULT_TEMPO = 500_000
"""Microseconds per quarter until the first tempo event, as the MIDI standard has it."""


def roll(data: bytes, rate: float) -> NDArray[np.bool_]:
    """The piano roll [T, 128] of a MIDI file's bytes, from time 0 to the end of its last note.

    Raises `UnreadableError` with the reason.
    """
    _check_chunks(data)
    try:
        score = symusic.Score.from_midi(data)
    except MemoryError:
        raise  # told as such by the guard
    except Exception as error:  # symusic raises RuntimeError, and others through its C++ binding
        raise UnreadableError(f"malformed MIDI: {' '.join(str(error).split())}") from None
    start, end, pitch = _notes(score)
    first, past = _frames(np.stack([start, end]), score, rate)
    width = int(past.max()) + 1
    edges, one = np.zeros(PITCHES * width, np.int32), np.int32(1)  # flat, and one type: 30 times faster in `at`
    np.add.at(edges, pitch * width + first, one)
    np.subtract.at(edges, pitch * width + past, one)
    sounding = np.cumsum(edges.reshape(PITCHES, width), axis=1, dtype=np.int32) > 0
    return np.ascontiguousarray(sounding[:, :-1].T)


def check_rate(rate: float) -> None:
    """Raises `ValueError` for frames per second that no MIDI tempo says exactly."""
    frames, micros = _clock(rate)
    if frames > 10_000 or micros >= 2**24:  # beyond, int64 overflows, or no MIDI tempo can say it
        raise ValueError(f"rate={rate:g} has no exact MIDI tempo; take one such as 5, 7.5, 10, 24 or 50")


def write_midi(path: Path, frames: NDArray[np.bool_], rate: float) -> None:
    """Write a piano roll [T, 128]; consecutive frames of a pitch become one note, and `roll` reads back the same
    frames, up to the last one that sounds."""
    per_quarter, micros = _clock(rate)
    stretch = max(1, DEFAULT_TEMPO // micros)  # a quarter of about half a second, as a score would have it
    per_quarter, micros = per_quarter * stretch, micros * stretch
    ticks = max(1, 480 // per_quarter)  # per frame
    padded = np.pad(frames.astype(np.int8), ((1, 1), (0, 0)))
    pitch, start = np.nonzero((np.diff(padded, axis=0) > 0).T)
    _, end = np.nonzero((np.diff(padded, axis=0) < 0).T)
    score = symusic.Score(per_quarter * ticks)
    score.tempos.append(symusic.Tempo(0, mspq=micros, ttype="tick"))
    track = symusic.Track()
    track.notes = symusic.Note.from_numpy(
        (start * ticks).astype(np.int32),
        ((end - start) * ticks).astype(np.int32),
        pitch.astype(np.int8),
        np.full(len(pitch), 80, np.int8),
        "tick",
    )
    score.tracks.append(track)
    with aside(path) as temporary:
        temporary.write_bytes(score.dumps_midi())


def _clock(rate: float) -> tuple[int, int]:
    """(q, u) in lowest terms: q frames last exactly u microseconds."""
    frames_per_microsecond = Fraction(str(rate)) / 1_000_000
    return frames_per_microsecond.numerator, frames_per_microsecond.denominator


def _check_chunks(data: bytes) -> None:
    """What symusic lets pass: a file cut between two tracks reads there as a shorter piece."""
    if not data:
        raise UnreadableError("an empty file")
    if data[:4] != b"MThd":
        raise UnreadableError("not a MIDI file (it does not begin with MThd)")
    if len(data) < 14:
        raise UnreadableError("truncated in the header")
    size, kind, tracks, division = struct.unpack_from(">IHHH", data, 4)
    if division == 0 or division & 0x8000:
        raise UnreadableError("time in SMPTE frames or without a unit, not in ticks per quarter")
    if kind > 1:
        raise UnreadableError(f"MIDI format {kind} (independent patterns), not one piece of music")
    at, found = 8 + size, 0
    while found < tracks:
        if at + 8 > len(data):
            raise UnreadableError(f"truncated: {found} of {tracks} tracks are there")
        name, size = struct.unpack_from(">4sI", data, at)
        at, found = at + 8 + size, found + (name == b"MTrk")
        if at > len(data):
            raise UnreadableError(f"truncated: track {found} of {tracks} ends early")


def _notes(score: symusic.Score) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(start, end, pitch) in ticks of all notes that sound, drums left out.

    A key of a channel is up or down: the first release ends every note of that key. symusic pairs the first press with
    the first release, the second with the second, so that one lost release would shift all later notes of the key.
    """
    tracks = [track.notes.numpy() for track in score.tracks if not track.is_drum and len(track.notes)]
    if not tracks:
        raise UnreadableError("no notes outside the drum channel")
    start = np.concatenate([track["time"] for track in tracks]).astype(np.int64)
    duration = np.concatenate([track["duration"] for track in tracks])
    pitch = np.concatenate([track["pitch"] for track in tracks]).astype(np.int64)
    key = np.repeat(np.arange(len(tracks)), [len(track["time"]) for track in tracks]) * PITCHES + pitch
    if start.min() < 0 or duration.min() < 0:  # symusic counts ticks in 32 bits
        raise UnreadableError(f"longer than {MAX_HOURS} hours")
    sounds = duration > 0
    if not sounds.any():
        raise UnreadableError("zero length: no note lasts")
    start, duration, pitch, key = start[sounds], duration[sounds], pitch[sounds], key[sounds]
    releases = np.sort(key << 32 | (start + duration))
    end = releases[np.searchsorted(releases, key << 32 | start, side="right")] & 0xFFFF_FFFF
    return start, end, pitch


def _frames(ticks: NDArray[np.int64], score: symusic.Score, rate: float) -> NDArray[np.int64]:
    """The first frame at or after each tick.

    Exact: microseconds x ticks per quarter are summed as integers. They stay below 2^55 before the check of the
    length and, times the at most 10,000 frames of `_clock`, below 2^63 after it.
    """
    tempos = score.tempos.numpy()
    at = np.concatenate([[0], tempos["time"]]).astype(np.int64)
    tempo = np.concatenate([[DEFAULT_TEMPO], tempos["mspq"]]).astype(np.int64)
    if at.min() < 0 or tempo.min() <= 0:
        raise UnreadableError("a tempo of no duration, or at a negative time")
    order = np.argsort(at, kind="stable")
    at, tempo = at[order], tempo[order]
    passed = np.concatenate([[0], np.cumsum(np.diff(at) * tempo[:-1])])
    last = np.searchsorted(at, ticks, side="right") - 1
    elapsed = passed[last] + (ticks - at[last]) * tempo[last]
    if elapsed.max() > MAX_HOURS * 3_600_000_000 * score.ticks_per_quarter:
        raise UnreadableError(f"longer than {MAX_HOURS} hours")
    frames, micros = _clock(rate)
    return -(-elapsed * frames // (micros * score.ticks_per_quarter))
