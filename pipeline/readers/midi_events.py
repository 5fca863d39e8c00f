"""The events of a Standard MIDI File: presses and releases of keys, and tempos, each with its tick."""

from typing import NamedTuple

import numpy as np

from pipeline.readers.midi_chunks import read_chunks
from pipeline.readers.midi_other_events import META, NUMBER_BYTES, Booleans, Bytes, Integers, OtherEvents, other_events
from pipeline.sequence import UnreadableError

DRUMS = 9
"""Channel of the drums, counted from 0."""
MAX_TICK = 2**38
"""Longest delta time, in ticks; longer ones are shortened to it. So the sum over a file's events stays below 2^62."""
TEMPO = 0x51
IS_NOTE = np.zeros(256, np.bool_)
"""Whether a status byte is a press or a release on a channel other than that of the drums."""
IS_NOTE[0x80:0xA0] = True
IS_NOTE[[0x80 | DRUMS, 0x90 | DRUMS]] = False
TEMPO_BYTES, TEMPO_WEIGHTS = np.array([3, 4, 5]), np.array([2**16, 2**8, 1])
"""Positions of the bytes of the microseconds in a tempo event, and the place value of each."""
PADDING = bytes(16)
"""Bytes added after the last track, so that a few bytes can be read from the start of any event."""


class Events(NamedTuple):
    """Notes and tempos of a MIDI file, without drums. Tracks, and events within a track, are in the file's order."""

    division: int
    """Ticks per quarter note."""
    key: Integers
    """Number of each event's key: (track * 16 + channel) * 128 + pitch."""
    tick: Integers
    """Time of each event, in ticks since the start of the piece."""
    press: Booleans
    """Whether the event is a press of the key; otherwise it is a release. A press of velocity 0 is a release."""
    tempo_tick: Integers
    tempo: Integers
    """Tempo from `tempo_tick` on, in microseconds per quarter note."""


def read_events(data: bytes) -> Events:
    """Return the events of a MIDI file's bytes, which may be wrapped in RIFF (.rmi).

    Raises `UnreadableError` with the reason.
    """
    data, division, tracks = read_chunks(data)
    data = data[: tracks[-1][1]] + PADDING
    octets = np.frombuffer(data, np.uint8)
    low = (octets < 0x80).nonzero()[0]
    begins, ends = map(np.array, zip(*tracks, strict=True))
    return _decoded(octets, low, other_events(data, octets, low, begins, ends), begins[0], division)


def _decoded(octets: Bytes, low: Integers, others: OtherEvents, begin: int, division: int) -> Events:
    """Return all events; the first one begins at byte `begin`."""
    _, others_end, low_last, low_end, is_end = others
    low_begin = int(low.searchsorted(begin))
    count = (low_last - _with(low_begin, low_end[:-1])) // 3 + 1  # another event, and the rows before it
    past = count.cumsum()
    other = past - 1  # place of each among all events
    longer = _with(0, (low_end - low_last - 3).cumsum()[:-1]) + low_begin  # than a row, in bytes under 128
    at = np.arange(0, 3 * past[-1], 3) + longer.repeat(count)
    last, first, second = low[at], low[at + 1], low[at + 2]

    end = second + 1
    end[other] = others_end
    delta = _deltas(octets, _with(begin, end[:-1]), last)
    last_events = other[is_end]
    delta[last_events] = 0
    passed = delta.cumsum()
    track = (is_end.cumsum() - is_end).repeat(count)
    began = _with(0, passed[last_events[:-1]])

    status = _statuses(octets, last, first, second, other, track)
    note = IS_NOTE[status].nonzero()[0]
    first, status, note_track = first[note], status[note], track[note]
    place = others.last + 1
    tempo = ((octets[place] == META) & (octets[place + 1] == TEMPO) & ~is_end).nonzero()[0]
    place, tempo_event = place[tempo], other[tempo]
    size = others_end[tempo] - place - 3
    if (size != 3).any():
        raise UnreadableError(f"malformed MIDI: a tempo of {size[size != 3][0]} bytes, not 3")
    return Events(
        division=division,
        key=note_track << 11 | ((status & 0x0F).astype(np.uint16) << 7 | octets[first]),
        tick=passed[note] - began[note_track],
        press=(status >= 0x90) & (octets[first + 1] > 0),
        tempo_tick=passed[tempo_event] - began[track[tempo_event]],
        tempo=octets[place[:, None] + TEMPO_BYTES] @ TEMPO_WEIGHTS,
    )


def _with(first: int, rest: Integers) -> Integers:
    """Return an array of `first` and then `rest`, which is faster than np.concatenate for a short file."""
    whole = np.empty(len(rest) + 1, np.int64)
    whole[0], whole[1:] = first, rest
    return whole


def _statuses(
    octets: Bytes, last: Integers, first: Integers, second: Integers, other: Integers, track: Integers
) -> Bytes:
    """Return the status of each row: its own, or the last one before it in its track; 0 for events of other kinds."""
    status = octets[first - 1]
    own = status >= 0x80  # else it is the delta time's last byte
    own[other] = False
    wrong = second - last - own != 2
    wrong[other] = False
    if wrong.any():
        raise UnreadableError("malformed MIDI: a data byte above 127, or two statuses in a row")
    if np.count_nonzero(own) < len(own) - len(other):
        latest = np.maximum.accumulate(np.where(own, np.arange(len(own)), 0))
        none = ~own[latest] | (track[latest] != track)
        none[other] = False
        if none.any():
            raise UnreadableError("malformed MIDI: an event without a status, and none before it in its track")
        status = status[latest]
    status[other] = 0
    return status


def _deltas(octets: Bytes, start: Integers, last: Integers) -> Integers:
    """Return the variable-length numbers from byte `start` to byte `last`."""
    more = last - start
    most = int(more.max(initial=0))
    if most >= NUMBER_BYTES:
        raise UnreadableError(f"malformed MIDI: a delta time of over {NUMBER_BYTES} bytes")
    value = octets[last].astype(np.int64)
    longer = more.nonzero()[0]
    for i in range(1, most + 1):
        if i > 1:
            longer = longer[more[longer] >= i]
        value[longer] |= (octets[last[longer] - i] & 0x7F).astype(np.int64) << 7 * i
    return np.minimum(value, MAX_TICK) if most > 4 else value
