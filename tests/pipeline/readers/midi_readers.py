"""Independent readers of MIDI files: rolls of mido's and of pretty_midi's notes, and events read byte by byte."""

import io
import math
from collections import defaultdict
from fractions import Fraction

import mido
import numpy as np
import pretty_midi
from numpy.typing import NDArray

DRUMS = 9
TICKS_PER_SECOND = 960
"""Ticks per second at 480 ticks per quarter and 120 quarters per minute, as in a file without tempos."""


def mido_file(data: bytes) -> mido.MidiFile:
    return mido.MidiFile(file=io.BytesIO(data), clip=True)  # else it refuses bytes over 127 in escapes


def roll_by_mido(data: bytes, rate: float) -> NDArray[np.bool_]:
    """Return the piano roll [T, 128] of the messages that mido reads."""
    file = mido_file(data)
    tempos, notes = [(0, 500_000)], []
    for track in file.tracks:
        tick, down = 0, defaultdict(list)
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                tempos.append((tick, message.tempo))
            elif message.type in ("note_on", "note_off") and message.channel != DRUMS:
                key = message.channel, message.note
                if message.type == "note_on" and message.velocity:
                    down[key].append(tick)
                else:
                    ended = [start for start in down[key] if start < tick]
                    notes += [(start, tick, message.note) for start in ended]
                    down[key] = [start for start in down[key] if start == tick] if ended else []
    tempos.sort(key=lambda change: change[0])

    def frame(tick: int) -> int:
        """Return the first frame at or after a tick."""
        micros, at, tempo = 0, 0, 0
        for start, following in tempos:
            micros += (min(start, tick) - at) * tempo
            at, tempo = min(start, tick), following
        micros += (tick - at) * tempo
        return math.ceil(Fraction(micros, file.ticks_per_beat) * Fraction(str(rate)) / 10**6)

    placed = [(frame(start), frame(end), pitch) for start, end, pitch in notes]
    frames = np.zeros((max(end for _, end, _ in placed), 128), np.bool_)
    for start, end, pitch in placed:
        frames[start:end, pitch] = True
    return frames


def roll_by_pretty_midi(data: bytes, rate: float) -> NDArray[np.bool_]:
    """Return the piano roll [T, 128] of the notes that pretty_midi finds in a file of 480 ticks per quarter, without
    tempos.
    """
    parts = [part for part in pretty_midi.PrettyMIDI(mido_object=mido_file(data)).instruments if not part.is_drum]
    times = np.array([(note.start, note.end) for part in parts for note in part.notes]) * TICKS_PER_SECOND
    ticks = np.rint(times).astype(np.int64)  # times are multiples of a tick, but for the rounding of their product
    assert np.abs(times - ticks).max() < 1e-3
    tenths = round(rate * 10)
    first, past = -(-ticks.T * tenths // (TICKS_PER_SECOND * 10))
    frames = np.zeros((past.max(), 128), np.bool_)
    pitches = [note.pitch for part in parts for note in part.notes]
    for start, end, pitch in zip(first, past, pitches, strict=True):
        frames[start:end, pitch] = True
    return frames


class MalformedError(Exception):
    pass


Found = tuple[list[tuple[int, int, bool]], list[tuple[int, int]]]
"""(key, tick, press) of notes and (tick, microseconds) of tempos, as `pipeline.readers.midi_events.Events` has them."""


def byte_by_byte(data: bytes, tracks: list[tuple[int, int]]) -> Found:
    """Read the events of the tracks `data[begin:end]` one after the other. Raises `MalformedError`."""
    notes: list[tuple[int, int, bool]] = []
    tempos: list[tuple[int, int]] = []
    for number, (begin, end) in enumerate(tracks):
        _read_track(data[begin:end], number, notes, tempos)
    return notes, tempos


def _read_track(data: bytes, number: int, notes: list[tuple[int, int, bool]], tempos: list[tuple[int, int]]) -> None:
    at, tick, running = 0, 0, None
    while at < len(data):
        delta, at = _number(data, at)
        tick += min(delta, 2**38)
        status = data[at] if at < len(data) and data[at] >= 0x80 else None
        at += status is not None
        running = status if status is not None and status < 0xF0 else running
        status = running if status is None else status
        if status is None:
            raise MalformedError("no status")
        kind = data[at] if status == 0xFF and at < len(data) else None
        if kind == 0x2F:
            return
        at += kind is not None
        size, at = _number(data, at) if status in (0xF0, 0xF7, 0xFF) else (_size(status), at)
        event, at = data[at : at + size], at + size
        if at > len(data):
            raise MalformedError("the track ends within an event")
        if status < 0xF0 and max(event) >= 0x80:
            raise MalformedError("data above 127")
        if status >> 4 in (8, 9) and status % 16 != DRUMS:
            notes.append(((number * 16 + status % 16) * 128 + event[0], tick, status >= 0x90 and event[1] > 0))
        if kind == 0x51:
            if size != 3:
                raise MalformedError("a tempo of another length")
            tempos.append((tick, int.from_bytes(event, "big")))


def _size(status: int) -> int:
    """Return the number of data bytes of a status."""
    if status < 0xF0:
        return 1 if status >> 4 in (0xC, 0xD) else 2
    sizes = {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}
    if status not in sizes:
        raise MalformedError("no such status")
    return sizes[status]


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + 9]):
        value = value << 7 | byte & 127
        if byte < 128:
            return value, at + i + 1
    raise MalformedError("a number without an end")
