"""The events of a Standard MIDI File: presses and releases of keys, and tempos, each with its tick.

Nearly every event is a delta time, a status and two bytes of data. The status may be left out if it is that of the
event before (running status). It is above 127, as are all bytes of a delta time but the last, and nothing else is. So
each of these events has three bytes under 128: the last of its delta time, and its data. They are read as rows of
three, all at once.

Only the other events, a few in a track, are followed from one to the next. What a byte above 127 means is known from
the number of bytes under 128 since the last of them: a multiple of three, and it is in a delta time; one more, and it
is a status.
"""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.midi_chunks import read_chunks
from pipeline.sequence import UnreadableError

DRUMS = 9
"""Channel of the drums, counted from 0."""
MAX_TICK = 2**38
"""Longest delta time that is told from longer ones. The sum over all events of a file stays below 2^62."""
NUMBER_BYTES = 9
"""Longest variable-length number. The specification allows 4 bytes, but some writers exceed them."""
META, TEMPO, END_OF_TRACK = 0xFF, 0x51, 0x2F
SIZES = np.zeros(256, np.int64)
"""Bytes from the status on, by status, of events that have neither two bytes of data nor a stated length."""
SIZES[0xC0:0xE0] = 2  # program change and channel pressure
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

    place: Integers
    """The status of each, or its data in running status; of the end of a track, the byte past it."""
    end: Integers
    """The byte past each, or -1 while its length is not known; of the end of a track, the first byte of the next."""
    low_place: Integers
    """Number of bytes under 128 before `place`."""
    low_end: Integers
    """Number of bytes under 128 before `end`."""
    is_end: Booleans
    """Whether it is the end of a track."""


def read_events(data: bytes) -> Events:
    """Return the events of a MIDI file's bytes, which may be wrapped in RIFF (.rmi).

    Raises `UnreadableError` with the reason.
    """
    data, division, tracks = read_chunks(data)
    begins, ends = [begin for begin, _ in tracks], [end for _, end in tracks]
    data = data[: ends[-1]] + PADDING
    octets = np.frombuffer(data, np.uint8)
    low = np.flatnonzero(octets < 0x80)
    return _decoded(octets, low, _others(data, low, begins, ends), begins[0], division)


def _others(data: bytes, low: Integers, begins: list[int], ends: list[int]) -> _Others:
    """Find the events of other kinds. Between two of them lie whole rows of three bytes under 128."""
    octets = np.frombuffer(data, np.uint8)
    found = _candidates(octets, low, begins, ends)
    kept, running = _follow(data, low, found, begins[0], set(ends))
    others = _Others._make(values[kept] for values in found)
    if running:
        place = np.array(running)
        low_place = np.searchsorted(low, place)
        more = _Others(place, place + 1, low_place, low_place + 1, np.zeros(len(place), np.bool_))
        order = np.argsort(np.append(others.place, place))
        others = _Others._make(np.append(a, b)[order] for a, b in zip(others, more, strict=True))
    return others


def _candidates(octets: Bytes, low: Integers, begins: list[int], ends: list[int]) -> _Others:
    """Every byte that may be the status of such an event. It may also be in a delta time or in the data of one."""
    found = (octets >= 0xC0) & (octets & 0xF0 != 0xE0)
    found[: begins[0]] = False
    found[ends] = True
    place = np.flatnonzero(found)
    status = octets[place]
    end = place + SIZES[status]
    sized = np.flatnonzero((status == META) | (status == 0xF0) | (status == 0xF7))
    start = place[sized] + 1 + (status[sized] == META)
    size = octets[start]
    end[sized] = np.where(size < 0x80, start + 1 + size, -1)
    over = np.flatnonzero((status == META) & (octets[place + 1] == END_OF_TRACK))
    end[over] = np.array(ends)[np.searchsorted(ends, place[over])]  # what may follow does not count
    at_end = np.searchsorted(place, ends)
    end[at_end] = [*begins[1:], ends[-1]]
    is_end = np.zeros(len(place), np.bool_)
    is_end[at_end] = True
    return _Others(place, end, np.searchsorted(low, place), np.searchsorted(low, end), is_end)


def _plain(octets: Bytes, found: _Others, begin: int, low_begin: int) -> Booleans:
    """Which candidates certainly are events if the one before each is one. `_follow` looks at the rest."""
    place, end, low_place, low_end, is_end = found
    at, low_at = np.append(begin, end[:-1]), np.append(low_begin, low_end[:-1])
    plain = (end >= 0) & (place >= at) & ((low_place - low_at) % 3 == ~is_end)
    plain &= (place == at) | (octets[place - 1] < 0x80)
    single = np.flatnonzero(octets[place] & 0xE0 == 0xC0)
    after = end[single]
    after += octets[after] >= 0x80
    status = octets[after + 1]  # of what follows: a status of its own, after a delta time of one or two bytes
    plain[single] &= (octets[after] < 0x80) & (status >= 0x80) & (status < 0xF0)
    return plain


def _follow(data: bytes, low: Integers, found: _Others, begin: int, ends: set[int]) -> tuple[Booleans, list[int]]:
    """Which candidates are events; and the data of events in the running status of one byte of data.

    Enters the ends of events that state a length of 128 or more.
    """
    at, low_at = begin, int(np.searchsorted(low, begin))  # past the last event found
    plain = _plain(np.frombuffer(data, np.uint8), found, at, low_at)
    closer = [*np.flatnonzero(~plain).tolist(), len(plain)]
    place, end, low_place, low_end, is_end = (values.data for values in found)  # faster than arrays, item by item
    kept, running = np.zeros(len(place), np.bool_), []
    j, single = 0, False
    while j < len(place):
        here = place[j]
        rows, rest = divmod(low_place[j] - low_at, 3)
        if not is_end[j] and (here < at or rest == 0):  # in the data of the last event, or in a delta time
            j += 1
            continue
        if here < at or rest != (not is_end[j]) or (here > at and data[here - 1] >= 0x80):
            what = "a data byte above 127 at" if rest == 2 and not is_end[j] else "no whole events before"
            raise UnreadableError(f"malformed MIDI: {what} byte {here}")
        kept[j], known = True, end[j] >= 0
        if not known:
            size, start = _number(data, here + 1 + (data[here] == META))
            end[j], low_end[j] = start + size, int(np.searchsorted(low, start + size))
        at, low_at = end[j], low_end[j]
        if data[here] & 0xE0 == 0xC0 and not is_end[j]:
            single = not plain[j]
        elif rows or is_end[j]:
            single = False
        while single and (byte := _data_without_status(data, at, ends)):
            running.append(byte)
            at, low_at = byte + 1, low_at + 2
        if known and not single:
            after = closer[bisect_right(closer, j)]
            kept[j:after] = True
            at, low_at, j = end[after - 1], low_end[after - 1], after
        else:
            j += 1
    return kept, running


def _data_without_status(data: bytes, at: int, ends: set[int]) -> int:
    """The byte after the delta time at byte `at`, unless it is a status or the track ends: then 0."""
    if at in ends or at >= len(data) - len(PADDING):
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


def _check(octets: Bytes, others: _Others) -> None:
    """Raises `UnreadableError` if an event of another kind is not as it has to be."""
    place, end, low_place, low_end, is_end = others
    status = octets[place]
    if wrong := np.flatnonzero((end == place) & ~is_end).tolist():
        raise UnreadableError(f"malformed MIDI: status {status[wrong[0]]:#x} does not exist (byte {place[wrong[0]]})")
    if ((status & 0xE0 == 0xC0) & (low_end - low_place != 1) & ~is_end).any():
        raise UnreadableError("malformed MIDI: a data byte above 127")


def _decoded(octets: Bytes, low: Integers, others: _Others, begin: int, division: int) -> Events:
    """Return all events; the first one begins at byte `begin`."""
    _check(octets, others)
    place, end, low_place, low_end, is_end = others
    low_last = low_place - ~is_end  # number of bytes under 128 before the last one of the delta time
    turns = np.stack([low_last - np.append(np.searchsorted(low, begin), low_end[:-1]), low_end - low_last], axis=1)
    in_row = np.repeat(np.tile([True, False], len(turns)), turns.ravel())
    rows = low[low_end[-1] - len(in_row) : low_end[-1]][in_row].reshape(-1, 3)
    last, first, second = np.ascontiguousarray(rows.T)
    counts = turns[:, 0] // 3  # of the rows between the others
    before = np.cumsum(counts)
    track: Integers = np.cumsum(is_end) - is_end
    status = _statuses(octets, last, first, second, np.append(0, before[is_end]))

    start = np.append(begin, second + 1)  # of each row
    others_start = np.where(counts > 0, start[before], np.append(begin, end[:-1]))
    start[before] = end
    passed = np.append(0, np.cumsum(_deltas(octets, start[:-1], last)))
    others_delta = np.where(is_end, 0, _deltas(octets, others_start, place - ~is_end))
    others_passed = np.append(0, np.cumsum(others_delta))
    others_tick = passed[before] + others_passed[1:]
    began = np.append(0, others_tick[is_end])[track]

    note = np.flatnonzero((status & 0xE0 == 0x80) & (status & 0x0F != DRUMS))
    status, first = status[note], first[note]
    tempo = np.flatnonzero((octets[place] == META) & (octets[place + 1] == TEMPO) & ~is_end)
    return Events(
        division=division,
        key=(np.repeat(track, counts)[note] << 4 | status & 0x0F) << 7 | octets[first],
        tick=(passed[1:] + np.repeat(others_passed[:-1] - began, counts))[note],
        press=(status >= 0x90) & (octets[first + 1] > 0),
        tempo_tick=(others_tick - began)[tempo],
        tempo=_tempos(octets, place[tempo], end[tempo]),
    )


def _statuses(octets: Bytes, last: Integers, first: Integers, second: Integers, bounds: Integers) -> Bytes:
    """The status of each row, its own or the last one before; rows `bounds[i] : bounds[i + 1]` are those of track i."""
    status = octets[first - 1]
    own = status >= 0x80  # else it is the delta time's last byte
    if (second - last != own + np.int64(2)).any():
        raise UnreadableError("malformed MIDI: a data byte above 127, or two statuses in a row")
    if own.all():
        return status
    if not own[bounds[:-1][bounds[:-1] < bounds[1:]]].all():
        raise UnreadableError("malformed MIDI: an event without a status, and none before it in its track")
    return status[np.maximum.accumulate(np.where(own, np.arange(len(own)), 0))]


def _tempos(octets: Bytes, place: Integers, end: Integers) -> Integers:
    """Microseconds per quarter of tempo events."""
    size = end - place - 3
    if (size != 3).any():
        raise UnreadableError(f"malformed MIDI: a tempo of {size[size != 3][0]} bytes, not 3")
    high, middle, lowest = (octets[end - i].astype(np.int64) for i in (3, 2, 1))
    return high << 16 | middle << 8 | lowest


def _deltas(octets: Bytes, start: Integers, last: Integers) -> Integers:
    """The variable-length numbers from byte `start` to byte `last`."""
    more = last - start
    if (more >= NUMBER_BYTES).any():
        raise UnreadableError(f"malformed MIDI: a delta time of over {NUMBER_BYTES} bytes")
    value = octets[last].astype(np.int64)
    longer = np.flatnonzero(more)
    for i in range(1, NUMBER_BYTES):
        if not longer.size:
            break
        value[longer] |= (octets[last[longer] - i] & 0x7F).astype(np.int64) << 7 * i
        longer = longer[more[longer] > i]
    return np.minimum(value, MAX_TICK)
