"""Convert MIDI bytes to a piano roll, and a piano roll back to MIDI.

Frame k lies at k / rate seconds and holds pitch p iff a note of p outside the drum channel has
start <= k / rate < end. Times follow the tempo map in integers (ticks x microseconds per quarter), so that no frame is
decided by rounding.
"""

import struct
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from driftwork.files import aside
from pipeline.readers.midi_events import MAX_TICK, Events, read_events
from pipeline.readers.midi_other_events import Integers
from pipeline.sequence import UnreadableError

PITCHES = 128
MAX_HOURS = 4
"""Maximum length of a piece, in hours. A note of a few bytes may claim a length of years."""
DEFAULT_TEMPO = 500_000
"""Microseconds per quarter note until the first tempo event, as the MIDI standard defines."""
VELOCITY = 80
"""MIDI velocity (1 to 127) of every written note."""
WORD, ONE = np.dtype("<u8"), np.uint64(1)
"""Type of an integer that counts the keys of several pitches, the lowest pitch in its lowest bits, and its number 1."""


def roll(data: bytes, rate: float) -> NDArray[np.bool_]:
    """Return the piano roll [T, 128] of a MIDI file's bytes, from time 0 to the end of its last note.

    Raises `UnreadableError` with the reason.
    """
    events = read_events(data)
    if not events.press.any():
        raise UnreadableError("no notes outside the drum channel")
    key, start, end = _notes(events)
    if not len(key):
        raise UnreadableError("no note outside the drum channel ends (no release after a press)")
    lasts = end > start
    if not lasts.all():
        key, start, end = key[lasts], start[lasts], end[lasts]
    if not len(key):
        raise UnreadableError("zero length: no note lasts")
    frames = _frames(np.concatenate((start, end)), events, rate)
    return _sounding(key, frames[: len(key)], frames[len(key) :])


def check_rate(rate: float) -> None:
    """Raise `ValueError` for a rate in frames per second that no MIDI tempo gives exactly."""
    frames, micros = _clock(rate)
    if frames > 10_000 or micros >= 2**24:  # beyond, int64 overflows, or no MIDI tempo can say it
        raise ValueError(f"rate={rate:g} has no exact MIDI tempo; give one such as 5, 7.5, 10, 24 or 50")


def write_midi(path: Path, frames: NDArray[np.bool_], rate: float) -> None:
    """Write a piano roll [T, 128] as a MIDI file; consecutive frames of a pitch become one note.

    `roll` reads back the same frames, up to the last one with a note."""
    per_quarter, micros = _clock(rate)
    stretch = max(1, DEFAULT_TEMPO // micros)  # a quarter of about half a second, as a score would have it
    per_quarter, micros = per_quarter * stretch, micros * stretch
    ticks = max(1, 480 // per_quarter)  # per frame
    edges = np.diff(frames.astype(np.int8), axis=0, prepend=0, append=0)
    events, now = [_timed(0, b"\xff\x51\x03" + micros.to_bytes(3, "big"))], 0
    for frame, pitch in np.argwhere(edges).tolist():
        velocity = VELOCITY if edges[frame, pitch] > 0 else 0  # 0 is a release
        events.append(_timed((frame - now) * ticks, bytes([0x90, pitch, velocity])))
        now = frame
    track = b"".join([*events, _timed(0, b"\xff\x2f\0")])
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, per_quarter * ticks)
    with aside(path) as temporary:
        temporary.write_bytes(header + struct.pack(">4sI", b"MTrk", len(track)) + track)


def _timed(ticks: int, event: bytes) -> bytes:
    """Return the bytes of the event, preceded by its delta time."""
    delta = bytes([ticks & 0x7F])
    while ticks := ticks >> 7:
        delta = bytes([0x80 | ticks & 0x7F]) + delta
    return delta + event


@cache
def _clock(rate: float) -> tuple[int, int]:
    """Return (q, u) in lowest terms: q frames last exactly u microseconds."""
    frames_per_microsecond = Fraction(str(rate)) / 1_000_000
    return frames_per_microsecond.numerator, frames_per_microsecond.denominator


def _notes(events: Events) -> tuple[Integers, Integers, Integers]:
    """Return (key, start, end) of each note, in ticks, sorted by key and start.

    A key is a pitch of a channel of a track. The first release of a key ends all its presses. A press without a later
    release is dropped.
    """
    order = events.key << 24 | np.arange(len(events.key))  # a file has under 2^23 events
    order.sort()
    key, order = order >> 24, order & 0xFF_FFFF
    tick, press = events.tick[order], events.press[order]
    same = key[1:] == key[:-1]
    if (same & press[:-1] & ~press[1:] & (tick[1:] == tick[:-1])).any():
        press = _released_first(key, tick, press)
    turn = (~same | (press[1:] != press[:-1])).nonzero()[0] + 1  # presses of a key, then its releases, then presses
    run = np.concatenate(([0], turn))
    key, tick, press = key[run], tick[run], press[run]
    note = (press[:-1] & (key[1:] == key[:-1])).nonzero()[0]
    return key[note], tick[note], tick[note + 1]


def _released_first(key: Integers, tick: Integers, press: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return `press`, reordered where a key that is down is pressed and released in the same tick: the release first.

    Such a release ends the earlier press, and the key stays down for the later one. If the key was up, the note has no
    length.
    """
    begin = np.flatnonzero(np.append(True, (key[1:] != key[:-1]) | (tick[1:] != tick[:-1])))  # of each key and tick
    last = np.append(begin[1:], len(key)) - 1
    again = press[begin] & ~press[last] & (np.add.reduceat(~press, begin, dtype=np.int64) == 1)
    before = np.maximum.accumulate(np.where(again, -1, np.arange(len(begin))))  # `again` leaves the key as it was
    before = np.append(-1, before[:-1])
    again &= (before >= 0) & (key[last[before]] == key[begin]) & press[last[before]]
    press = press.copy()
    press[begin[again]], press[last[again]] = False, True
    return press


def _frames(ticks: Integers, events: Events, rate: float) -> Integers:
    """Return the first frame at or after each tick.

    The result is exact: microseconds x ticks per quarter are summed as integers. They stay below 2^62 before the check
    of the length and, times the at most 10,000 frames of `_clock`, below 2^63 after it.
    """
    longest = f"longer than {MAX_HOURS} hours"
    if ticks.max() >= MAX_TICK:
        raise UnreadableError(f"{longest}, or of over 2^38 ticks")
    elapsed = _elapsed(ticks, events)
    if elapsed.max() > MAX_HOURS * 3_600_000_000 * events.division:
        raise UnreadableError(longest)
    frames, micros = _clock(rate)
    frame = micros * events.division
    return (elapsed * frames + (frame - 1)) // frame


def _elapsed(ticks: Integers, events: Events) -> Integers:
    """Return the time of each tick, in microseconds x ticks per quarter."""
    if len(events.tempo) and events.tempo.min() == 0:
        raise UnreadableError("a tempo of no duration")
    if len(events.tempo) == 1 and events.tempo_tick[0] == 0:  # most short pieces
        return ticks * events.tempo[0]
    at = np.concatenate(([0], events.tempo_tick))
    tempo = np.concatenate(([DEFAULT_TEMPO], events.tempo))
    order = at.argsort(kind="stable")
    at, tempo = at[order], tempo[order]
    change = np.concatenate((tempo[:1], tempo[:-1])) - tempo  # the tempo before, less this one
    offset = (at * change).cumsum()  # of the time under a tempo, against a piece that has this tempo throughout
    last = at.searchsorted(ticks, side="right") - 1
    elapsed: Integers = offset[last] + ticks * tempo[last]
    return elapsed


def _sounding(key: Integers, first: Integers, past: Integers) -> NDArray[np.bool_]:
    """Return bool [T, 128], whether any key of the pitch is down, for notes [first, past) sorted by key.

    The keys of a pitch are counted in 8 bits (more if a file has over 255 channels), eight pitches in one integer: a
    sum of such integers adds all pitches at once, and none overflows into the next. Pitches below the lowest and above
    the highest note are left out of the sum.
    """
    channels = int(key[-1] >> 7) + 1  # at most
    if channels > 255:
        channel = key >> 7
        channels = 1 + int(np.count_nonzero(channel[1:] != channel[:-1]))
    bits = 8 if channels < 2**8 else 16 if channels < 2**16 else 32
    per_word = 64 // bits
    pitch = key & (PITCHES - 1)
    lowest = int(pitch.min()) // per_word * per_word
    place = (pitch - lowest) * bits
    word, one = place >> 6, ONE << (place & 63).view(np.uint64)
    length, words = int(past.max()), int(word.max()) + 1
    edges = np.zeros((length + 1, words), WORD)
    np.add.at(edges.reshape(-1), first * words + word, one)
    np.subtract.at(edges.reshape(-1), past * words + word, one)
    np.add.accumulate(edges, axis=0, out=edges)
    frames = np.zeros((length, PITCHES), np.bool_)
    np.greater(edges[:-1].view(f"<u{bits // 8}"), 0, out=frames[:, lowest : lowest + words * per_word])
    return frames
