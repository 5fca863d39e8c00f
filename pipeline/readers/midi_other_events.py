"""Find the events of a MIDI file that are not a status and two bytes of data: meta events, SysEx, program changes.

Nearly every event is a delta time, a status and two bytes of data. The status may be left out if it is that of the
event before (running status). It is above 127, as are all bytes of a delta time but the last; all other bytes are under
128. So each of these events has three bytes under 128, here called a row: the last one of its delta time, and its data.

Only the other events, a few in a track, are followed from one to the next. The meaning of a byte above 127 follows from
the number of bytes under 128 since the last of these events. If it is a multiple of three, the byte is in a delta time.
If it is one more, the byte is a status.
"""

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.sequence import UnreadableError

NUMBER_BYTES = 9
"""Longest variable-length number, in bytes. The specification allows 4, but some writers use more."""
META, END_OF_TRACK = 0xFF, 0x2F
UNKNOWN = -(2**40)
"""Marker for an unknown size of an event. Added to a position, it gives a negative number."""
SIZES = np.full(256, UNKNOWN)
"""Number of bytes of an event from its status on, by status; 0 if the event has a length field."""
SIZES[0xC0:0xE0] = 2  # program change and channel pressure
SIZES[[0xF0, 0xF7, META]] = 0
SIZES[[0xF1, 0xF2, 0xF3, 0xF6, 0xF8, 0xFA, 0xFB, 0xFC, 0xFE]] = [2, 3, 2, 1, 1, 1, 1, 1, 1]  # these are skipped
STATED = np.arange(1, 257)
"""Number of bytes from a one-byte length field to the end of the event, by the field's value. Bytes from 0x80 on begin
a longer field."""
STATED[0x80:] = UNKNOWN

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


class OtherEvents(NamedTuple):
    """The events that are not a status and two bytes of data, in the file's order. The end of a track counts as an
    event."""

    last: Integers
    """Position of the last byte of each delta time, or of the byte past the end of a track."""
    end: Integers
    """Position past each event, negative while it is unknown. For the end of a track, the start of the next track."""
    low_last: Integers
    """Number of bytes under 128 before `last`."""
    low_end: Integers
    """Number of bytes under 128 before `end`."""
    is_end: Booleans
    """Whether the event is the end of a track."""


def other_events(data: bytes, octets: Bytes, low: Integers, begins: Integers, ends: Integers) -> OtherEvents:
    """Return the events of other kinds. Between two of them lie whole rows of three bytes under 128."""
    found, simple = _candidates(octets, low, begins, ends)
    kept, running = _follow(data, low, found, int(begins[0]), simple)
    others = OtherEvents._make(values[kept] for values in found)
    if running:
        last = np.array(running)
        low_last = np.searchsorted(low, last)
        more = OtherEvents(last, last + 2, low_last, low_last + 2, np.zeros(len(last), np.bool_))
        order = np.argsort(np.append(others.last, last))
        others = OtherEvents._make(np.append(a, b)[order] for a, b in zip(others, more, strict=True))
    return others


def _candidates(octets: Bytes, low: Integers, begins: Integers, ends: Integers) -> tuple[OtherEvents, Booleans]:
    """Find every byte that may be the status of such an event, though it may also be in a delta time or in data.

    Also return which candidates are events without further checks, provided that only whole rows are before them.
    """
    found = octets >= 0xC0
    found &= octets & 0xF0 != 0xE0
    found[: begins[0]] = False
    found[ends] = True
    place = found.nonzero()[0]
    status = octets[place]
    size = SIZES[status]
    end = place + size
    sized = (size == 0).nonzero()[0]
    start = place[sized] + 1 + (status[sized] == META)
    end[sized] = start + STATED[octets[start]]
    over = sized[octets[start - 1] == END_OF_TRACK]
    end[over] = ends[ends.searchsorted(place[over])]  # what may follow does not count
    at_end = place.searchsorted(ends)
    end[at_end[:-1]], end[at_end[-1]] = begins[1:], ends[-1]
    is_end = np.zeros(len(place), np.bool_)
    is_end[at_end] = True
    simple = (octets[place - 1] < 0x80) & (end >= 0) & (size != 1)  # these are rare, but not in delta times
    single = (status & 0xE0 == 0xC0).nonzero()[0]  # with one byte of data
    simple[single] &= (octets[place[single] + 1] < 0x80) & _own_status(octets, end[single])
    before = ~is_end
    last = place - before
    return OtherEvents(last, end, low.searchsorted(place) - before, low.searchsorted(end), is_end), simple


def _own_status(octets: Bytes, at: Integers) -> Booleans:
    """Return at which bytes an event begins that has a delta time of one or two bytes and a channel status."""
    longer = octets[at] >= 0x80
    at = at + longer
    return (octets[at] < 0x80) & (octets[at + 1] >= 0x80) & (octets[at + 1] < 0xF0)


def _follow(data: bytes, low: Integers, found: OtherEvents, begin: int, simple: Booleans) -> tuple[Integers, list[int]]:
    """Return which candidates are events, and the last delta-time bytes of events with one byte of data and no status.

    The ends of events with a length field of 128 or more are set in `found`. Runs of simple events are taken at once.
    A candidate is aligned if it is whole rows after the last simple candidate. It is `steady` if it is both simple and
    aligned, or neither. If the last simple candidate is an event, then a candidate that is both is the next event, and
    one that is neither is in a delta time or in data.
    """
    count = len(simple)
    before = np.zeros(count + 1, np.int64)  # the last simple candidate before each
    np.maximum.accumulate(simple * np.arange(count), out=before[1:])
    phase, end_phase = (found.low_last % 3).astype(np.uint8), (found.low_end % 3).astype(np.uint8)
    steady = np.zeros(count + 1, np.bool_)
    steady[:-1] = (found.last >= found.end[before[:-1]]) & (phase == end_phase[before[:-1]])
    steady[:-1] = (steady[:-1] == simple) & (simple >= found.is_end)
    unsteady = (~steady).nonzero()[0].tolist()
    ends = found.is_end.nonzero()[0].tolist()
    phases = phase.tobytes()  # bytes and memoryviews: faster item by item
    last, end, low_last, low_end = (values.data for values in found[:4])
    is_simple, is_steady = simple.tobytes(), steady.tobytes()
    kept, running = bytearray(count), []
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
        if single:  # until rows follow, or an event that rows follow
            single = low_last[j] == low_at and j < stop and not (is_simple[j] and data[last[j] + 1] & 0xE0 == 0xC0)
        if not is_simple[j]:
            single = _complete(data, low, found, j, at) or single
        kept[j] = True
        at, low_at = end[j], low_end[j]
        if j == stop:
            track += 1
        while single and (byte := _data_without_status(data, at, last[stop])):
            running.append(byte - 1)
            at, low_at = byte + 1, low_at + 2
        j += 1
        if is_steady[j] and is_simple[j - 1] and not single:
            past = unsteady[bisect_left(unsteady, j)]
            kept[j:past] = is_simple[j:past]
            j, i = past, before[past]
            at, low_at = end[i], low_end[i]
            track = bisect_left(ends, j)
    return np.frombuffer(kept, np.bool_).nonzero()[0], running


def _complete(data: bytes, low: Integers, found: OtherEvents, j: int, at: int) -> bool:
    """Check an event, set its end in `found`, and return whether it has one byte of data.

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
    """Return the byte after the delta time at byte `at`, or 0 if it is a status or the track ends."""
    if at >= stop:
        return 0
    while data[at] >= 0x80:
        at += 1
    return at + 1 if data[at + 1] < 0x80 else 0


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return the variable-length number at a byte, and the byte past it."""
    value = 0
    for i in range(at, at + NUMBER_BYTES):
        value = value << 7 | data[i] & 0x7F
        if data[i] < 0x80:
            return value, i + 1
    raise UnreadableError(f"malformed MIDI: a number of over {NUMBER_BYTES} bytes at byte {at}")
