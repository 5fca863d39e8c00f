"""The events of a Standard MIDI File: presses and releases of keys, and tempos, each with its tick.

Nearly every event is a delta time, a status and two bytes of data. The status may be left out if it is that of the
event before (running status). It is above 127, as are all bytes of a delta time but the last, and nothing else is. So
each of these events has three bytes under 128: the last of its delta time, and its data. They are read as rows of
three, all at once.

Only the other events, a few in a track, are followed from one to the next. What a byte above 127 means is known from
the number of bytes under 128 since the last of them: a multiple of three, and it is in a delta time; one more, and it
is a status.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.readers.midi_chunks import read_chunks
from pipeline.sequence import UnreadableError

DRUMS = 9
"""Channel of the drums, counted from 0."""
MAX_TICK = 2**38
"""Longest delta time that is told from longer ones. The sum over all events of a file stays below 2^62."""
NUMBER_BYTES = 9
"""Longest variable-length number. The specification allows 4 bytes, but some writers exceed them."""
META, TEMPO, END_OF_TRACK = 0xFF, 0x51, 0x2F
UNKNOWN = -(2**40)
"""Added to the end of an event, it says that the end is not known."""
SIZES = np.full(256, UNKNOWN)
"""Bytes of an event from its status on, by status; 0 where the event states its length."""
SIZES[0xC0:0xE0] = 2  # program change and channel pressure
SIZES[[0xF0, 0xF7, META]] = 0
SIZES[[0xF1, 0xF2, 0xF3, 0xF6, 0xF8, 0xFA, 0xFB, 0xFC, 0xFE]] = [2, 3, 2, 1, 1, 1, 1, 1, 1]  # these are skipped
PADDING = bytes(16)
"""After the last track, so that a few bytes can be read from the start of any event on."""

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


class Events(NamedTuple):
    """What a piano roll needs of a MIDI file. Without drums. Tracks, and events within a track, in the file's order."""

    division: int
    """Ticks per quarter note."""
    key: Integers
    """(track * 16 + channel) * 128 + pitch."""
    tick: Integers
    """Ticks since the start of the piece."""
    press: Booleans
    """Whether the key goes down. A press of velocity 0 is a release."""
    tempo_tick: Integers
    tempo: Integers
    """Microseconds per quarter note from `tempo_tick` on."""


class _Others(NamedTuple):
    """The events that are not two bytes of data to a channel, and each track's end as one more, in the file's order."""

    last: Integers
    """The last byte of each delta time; of the end of a track, the byte past it."""
    end: Integers
    """The byte past each event, negative while it is not known; of the end of a track, the first byte of the next."""
    low_last: Integers
    """Number of bytes under 128 before `last`."""
    low_end: Integers
    """Number of bytes under 128 before `end`."""
    is_end: Booleans
    """Whether it is the end of a track."""


def read_events(data: bytes) -> Events:
    """Return the events of a MIDI file's bytes, which may be wrapped in RIFF (.rmi).

    Raises `UnreadableError` with the reason.
    """
    data, division, tracks = read_chunks(data)
    data = data[: tracks[-1][1]] + PADDING
    octets = np.frombuffer(data, np.uint8)
    low = np.flatnonzero(octets < 0x80)
    begins, ends = np.array(tracks).T
    return _decoded(octets, low, _others(data, octets, low, begins, ends), begins[0], division)


def _others(data: bytes, octets: Bytes, low: Integers, begins: Integers, ends: Integers) -> _Others:
    """Find the events of other kinds. Between two of them lie whole rows of three bytes under 128."""
    found = _candidates(octets, low, begins, ends)
    kept, running = _follow(data, low, found, int(begins[0]), _simple(octets, found))
    others = _Others._make(values[kept] for values in found)
    if running:
        last = np.array(running)
        low_last = np.searchsorted(low, last)
        more = _Others(last, last + 2, low_last, low_last + 2, np.zeros(len(last), np.bool_))
        order = np.argsort(np.append(others.last, last))
        others = _Others._make(np.append(a, b)[order] for a, b in zip(others, more, strict=True))
    return others


def _candidates(octets: Bytes, low: Integers, begins: Integers, ends: Integers) -> _Others:
    """Every byte that may be the status of such an event. It may also be in a delta time or in the data of one."""
    found = (octets >= 0xC0) & (octets & 0xF0 != 0xE0)
    found[: begins[0]] = False
    found[ends] = True
    place = np.flatnonzero(found)
    status = octets[place]
    size = SIZES[status]
    end = place + size
    sized = np.flatnonzero(size == 0)
    start = place[sized] + 1 + (status[sized] == META)
    size = octets[start]
    end[sized] = start + 1 + size + (size >= 0x80) * UNKNOWN
    over = sized[octets[start - 1] == END_OF_TRACK]
    end[over] = ends[ends.searchsorted(place[over])]  # what may follow does not count
    at_end = place.searchsorted(ends)
    end[at_end[:-1]], end[at_end[-1]] = begins[1:], ends[-1]
    is_end = np.zeros(len(place), np.bool_)
    is_end[at_end] = True
    before = ~is_end
    return _Others(place - before, end, low.searchsorted(place) - before, low.searchsorted(end), is_end)


def _simple(octets: Bytes, found: _Others) -> Booleans:
    """Which candidates need no closer look to be taken for an event, should there be whole rows before them."""
    last, end, is_end = found.last, found.end, found.is_end
    simple = (end >= 0) & (octets[last - is_end] < 0x80)
    single = np.flatnonzero(octets[last + 1] & 0xE0 == 0xC0)  # with one byte of data
    after = end[single]
    after += octets[after] >= 0x80
    status = octets[after + 1]  # of what follows: a status of its own, after a delta time of one or two bytes
    simple[single] &= (octets[after] < 0x80) & (status >= 0x80) & (status < 0xF0) & (octets[last[single] + 2] < 0x80)
    return simple


def _follow(data: bytes, low: Integers, found: _Others, begin: int, simple: Booleans) -> tuple[Booleans, list[int]]:
    """Which candidates are events; and the last bytes of delta times of events with one byte of data and no status.

    Enters the ends of events that state a length of 128 or more.
    """
    certain = np.append(simple, False)  # if the candidate before is an event
    certain[1:-1] &= (found.last[1:] >= found.end[:-1]) & (found.end[:-1] >= 0)
    certain[1:-1] &= (found.low_last[1:] - found.low_end[:-1]) % 3 == 0
    uncertain = (~certain).nonzero()[0].tolist()
    ends = found.is_end.nonzero()[0].tolist()
    phases = (found.low_last % 3).astype(np.uint8).tobytes()  # bytes and memoryviews: faster item by item
    last, end, low_last, low_end = (values.data for values in found[:4])
    is_simple, is_certain = simple.tobytes(), certain.tobytes()
    kept, running = bytearray(len(simple)), []
    at, low_at = begin, int(low.searchsorted(begin))  # past the last event found
    j = track = 0
    single = False  # whether events without a status have one byte of data
    while track < len(ends):
        stop = ends[track]
        j = phases.find(low_at % 3, j)  # others are in delta times
        if not 0 <= j <= stop or (j == stop and last[j] < at):
            raise UnreadableError(f"malformed MIDI: no whole events up to byte {last[stop]}, the end of a track")
        if last[j] < at:  # in the data of the last event
            j += 1
            continue
        if single or not is_simple[j]:
            single = single and low_last[j] == low_at and j < stop
            single = _complete(data, low, found, j, at) or single
        kept[j] = True
        at, low_at = end[j], low_end[j]
        if j == stop:
            track += 1
        while single and (byte := _data_without_status(data, at, last[stop])):
            running.append(byte - 1)
            at, low_at = byte + 1, low_at + 2
        j += 1
        if is_certain[j] and not single:
            past = uncertain[bisect_left(uncertain, j)]
            kept[j:past] = b"\1" * (past - j)
            at, low_at, j = end[past - 1], low_end[past - 1], past
            track = bisect_left(ends, j)
    return np.frombuffer(kept, np.bool_), running


def _complete(data: bytes, low: Integers, found: _Others, j: int, at: int) -> bool:
    """Check an event and enter its end. Return whether it has one byte of data.

    `at` is the end of the last event of other kinds before it.
    """
    last, is_end = int(found.last[j]), bool(found.is_end[j])
    if data[last - is_end] >= 0x80 and last - is_end >= at:
        raise UnreadableError(f"malformed MIDI: no whole events up to byte {last + 1 - is_end}")
    if is_end:
        return False
    status = data[last + 1]
    if SIZES[status] < 0:
        raise UnreadableError(f"malformed MIDI: status {status:#x} does not exist (byte {last + 1})")
    if SIZES[status] == 0 and found.end[j] < 0:
        size, start = _number(data, last + 2 + (status == META))
        found.end[j], found.low_end[j] = start + size, np.searchsorted(low, start + size)
    if status & 0xE0 == 0xC0 and data[last + 2] >= 0x80:
        raise UnreadableError(f"malformed MIDI: a data byte above 127 (byte {last + 2})")
    return status & 0xE0 == 0xC0


def _data_without_status(data: bytes, at: int, stop: int) -> int:
    """The byte after the delta time at byte `at`, unless it is a status or the track ends: then 0."""
    if at >= stop:
        return 0
    while data[at] >= 0x80:
        at += 1
    return at + 1 if data[at + 1] < 0x80 else 0


def _number(data: bytes, at: int) -> tuple[int, int]:
    """(the variable-length number at a byte, the byte past it)."""
    value = 0
    for i in range(at, at + NUMBER_BYTES):
        value = value << 7 | data[i] & 0x7F
        if data[i] < 0x80:
            return value, i + 1
    raise UnreadableError(f"malformed MIDI: a number of over {NUMBER_BYTES} bytes at byte {at}")


def _decoded(octets: Bytes, low: Integers, others: _Others, begin: int, division: int) -> Events:
    """Return all events; the first one begins at byte `begin`."""
    others_last, end, low_last, low_end, is_end = others
    turns = np.empty((len(end), 2), np.int64)  # numbers of bytes under 128: of rows, of another event, of rows, ...
    turns[:, 0], turns[:, 1] = low_last, low_end - low_last
    turns[0, 0] -= low.searchsorted(begin)
    turns[1:, 0] -= low_end[:-1]
    is_row = np.zeros((len(end), 2), np.bool_)
    is_row[:, 0] = True
    in_row = is_row.ravel().repeat(turns.ravel())
    rows = low[low_end[-1] - len(in_row) : low_end[-1]][in_row].reshape(-1, 3)
    last, first, second = np.ascontiguousarray(rows.T)
    counts = turns[:, 0] // 3  # of the rows between the others
    before = counts.cumsum()
    track = is_end.cumsum() - is_end
    status = _statuses(octets, last, first, second, before[is_end])

    start = _with(begin, second + 1)  # of each row
    others_start = np.where(counts > 0, start[before], _with(begin, end[:-1]))
    start[before] = end
    passed = _with(0, _deltas(octets, start[:-1], last).cumsum())
    others_passed = _with(0, (_deltas(octets, others_start, others_last) * ~is_end).cumsum())
    others_tick = passed[before] + others_passed[1:]
    began = _with(0, others_tick[is_end])[track]

    note = np.flatnonzero((status & 0xE0 == 0x80) & (status & 0x0F != DRUMS))
    status, first = status[note], first[note]
    tempo = np.flatnonzero((octets[others_last + 1] == META) & (octets[others_last + 2] == TEMPO) & ~is_end)
    place = others_last[tempo] + 1
    size = end[tempo] - place - 3
    if (size != 3).any():
        raise UnreadableError(f"malformed MIDI: a tempo of {size[size != 3][0]} bytes, not 3")
    return Events(
        division=division,
        key=(track.repeat(counts)[note] << 4 | status & 0x0F) << 7 | octets[first],
        tick=(passed[1:] + (others_passed[:-1] - began).repeat(counts))[note],
        press=(status >= 0x90) & (octets[first + 1] > 0),
        tempo_tick=(others_tick - began)[tempo],
        tempo=octets[place[:, None] + (3, 4, 5)] @ np.array([2**16, 2**8, 1]),
    )


def _with(first: int, rest: Integers) -> Integers:
    return np.concatenate(([first], rest))


def _statuses(octets: Bytes, last: Integers, first: Integers, second: Integers, past: Integers) -> Bytes:
    """The status of each row, its own or the last one before. `past[i]` rows lie before the end of track i."""
    status = octets[first - 1]
    own = status >= 0x80  # else it is the delta time's last byte
    if (second - last != own + np.int64(2)).any():
        raise UnreadableError("malformed MIDI: a data byte above 127, or two statuses in a row")
    if own.all():
        return status
    begin = np.concatenate(([0], past[:-1]))
    if not own[begin[begin < past]].all():
        raise UnreadableError("malformed MIDI: an event without a status, and none before it in its track")
    return status[np.maximum.accumulate(np.where(own, np.arange(len(own)), 0))]


def _deltas(octets: Bytes, start: Integers, last: Integers) -> Integers:
    """The variable-length numbers from byte `start` to byte `last`."""
    more = last - start
    most = int(more.max(initial=0))
    if most >= NUMBER_BYTES:
        raise UnreadableError(f"malformed MIDI: a delta time of over {NUMBER_BYTES} bytes")
    value = octets[last].astype(np.int64)
    longer = more.nonzero()[0]
    for i in range(1, most + 1):
        value[longer] |= (octets[last[longer] - i] & 0x7F).astype(np.int64) << 7 * i
        longer = longer[more[longer] > i]
    return np.minimum(value, MAX_TICK) if most > 4 else value
