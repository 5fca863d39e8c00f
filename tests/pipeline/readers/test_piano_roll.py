"""Properties of real MIDI files that readers get wrong, against the values of mido and pretty_midi."""

import struct
from random import Random

import numpy as np
import pytest

from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.midi_chunks import read_chunks
from pipeline.readers.midi_events import read_events
from pipeline.readers.piano_roll import roll
from pipeline.sequence import UnreadableError
from tests.fuzz.damage import damaged
from tests.fuzz.midi_frames import compare
from tests.pipeline.readers.midi_bytes import (
    chunk,
    events,
    header,
    meta,
    midi,
    off,
    on,
    packet,
    piece,
    pressure,
    program,
    quantity,
    riff,
    sysex,
    tempo,
)
from tests.pipeline.readers.midi_readers import MalformedError, byte_by_byte

LONGEST = 2**28 - 1
"""The longest delta time that the specification allows, in ticks."""


def spans(data: bytes) -> dict[int, list[tuple[int, int]]]:
    """Map each pitch to [first, past) of each of its notes, in frames of 0.2 s, which are 192 ticks unless there is a
    tempo.
    """
    edges = np.diff(roll(data, 5.0).astype(np.int8), axis=0, prepend=0, append=0)
    return {
        int(pitch): list(
            zip(np.flatnonzero(edges[:, pitch] > 0).tolist(), np.flatnonzero(edges[:, pitch] < 0).tolist(), strict=True)
        )
        for pitch in np.flatnonzero(edges.any(axis=0))
    }


def note(rest: int = 0, length: int = 960) -> list[tuple[int, bytes]]:
    return [(rest, on(60)), (length, off(60))]


KEYS = {
    "pressed twice, released once": (
        [(0, on(60)), *note(), *note(960) * 5],
        [(0, 5), (10, 15), (20, 25), (30, 35), (40, 45), (50, 55)],
    ),
    "pressed twice, released once, with a program change": (
        [(0, program(0)), (0, on(60)), (1920, program(40)), *note(1440, 480) * 4],
        [(0, 20), (28, 30), (38, 40), (48, 50)],
    ),
    "a program change while it is down": (
        [(0, program(0)), (0, on(60)), (480, program(40)), (480, on(60)), (960, off(60)), (1920, off(60))],
        [(0, 10)],
    ),
    "released twice": ([*note(), (192, off(60)), *note(768)], [(0, 5), (10, 15)]),
    "the last press has no release": ([*note(), (192, on(60))], [(0, 5)]),
    "pressed again in the tick of its release": (
        [(0, on(60)), (960, on(60)), (0, off(60)), (960, off(60)), *note(960)],
        [(0, 10), (15, 20)],
    ),
    "pressed again in the tick of its last release": ([(0, on(60)), (960, on(60)), (0, off(60))], [(0, 5)]),
    "pressed again and again in the tick of a release": (
        [(0, on(60)), *[(960, on(60)), (0, off(60))] * 3, (960, off(60)), *note(960)],
        [(0, 20), (25, 30)],
    ),
    "pressed and released in a tick, then released": ([(0, on(60)), (0, off(60)), (960, off(60)), *note()], [(5, 10)]),
    "another channel's release": ([(0, on(60)), (480, off(60, 1)), (480, off(60))], [(0, 5)]),
    "a message in packets before it": (  # the specification's own example, of 300 ticks
        [
            (0, sysex(b"\x43\x12\x00")),
            (200, packet(b"\x43\x12\x00\x43\x12\x00")),
            (100, packet(b"\x43\x12\x00\xf7")),
            *note(0, 1920),
        ],
        [(2, 12)],
    ),
    "escaped messages before it and in it": (
        [(100, packet(b"\xf8")), (100, packet(on(61))), (100, on(60)), (100, packet(off(60))), (1820, off(60))],
        [(2, 12)],
    ),
}


@pytest.mark.parametrize("case", KEYS)
def test_first_release_ends_all_presses(case):
    track, right = KEYS[case]
    assert spans(midi(track)) == {60: right}


def test_release_in_another_track_ends_nothing():
    """Two tracks may share a channel, such as the two hands of a piano; pretty_midi reads them alike."""
    assert spans(midi([(0, on(60)), (1920, off(60))], [(480, on(60)), (480, off(60))])) == {60: [(0, 10)]}


@pytest.mark.parametrize("between", [meta(1, b"la"), sysex(b"\x43\xf7"), packet(b"\xf8"), b"\xf8"])
def test_running_status_outlasts_other_messages(between):
    assert spans(midi([(0, on(60)), (480, between), (480, bytes([60, 0]))])) == {60: [(0, 5)]}


def test_one_byte_running_status_is_followed():
    bends = [
        (60, bytes([0xD0, 1])),
        (60, bytes([2])),
        (60, meta(1, b"la")),
        (60, bytes([3])),
        (60, meta(1, b"x" * 200)),
    ]
    assert spans(midi([(0, on(60)), *bends, (60, bytes([4])), (600, off(60)), *note(0, 192)])) == {60: [(0, 6)]}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384])
def test_texts_of_any_length_are_skipped(size):
    assert spans(midi([(0, meta(5, b"\xff\x90\xc3"[:1] * size)), *note()])) == {60: [(0, 5)]}


def test_times_may_have_more_bytes_than_needed():
    late = b"\x80\x80\x80\x80" + quantity(960) + on(60) + quantity(960) + off(60)
    assert spans(header(1) + chunk(late)) == {60: [(5, 10)]}


def test_events_after_end_of_track_are_ignored():
    assert spans(header(1) + chunk(events(note()) + events(note()) + bytes(3))) == {60: [(0, 5)]}


def test_track_without_an_end_is_read():
    assert spans(header(1) + chunk(events(note())[:-4])) == {60: [(0, 5)]}


@pytest.mark.parametrize("ticks", [2**32, 2**32 + 960, 2**40, 2**60])
def test_ticks_do_not_wrap(ticks):
    late = quantity(ticks) + on(62) + quantity(960) + off(62)
    pauses = [(LONGEST, meta(1, b""))] * 16 + [(16, meta(1, b""))] + note()
    for data in (header(1) + chunk(events(note())[:-4] + late), midi(pauses)):
        with pytest.raises(UnreadableError, match="longer than 4 hours"):
            roll(data, 5.0)


def test_long_silence_at_the_end_is_ignored():
    assert spans(midi([*note(), *[(LONGEST, meta(1, b""))] * 40])) == {60: [(0, 5)]}


def test_midi_files_of_all_endings_are_found(tmp_path):
    names = ["a.mid", "b.MIDI", "c.Kar", "d.rmi"]
    for name in [*names, "e.txt"]:
        (tmp_path / name).write_bytes(FILE)
    assert [item.name for item in Midi(MidiConfig()).find(tmp_path)] == names


FILE = midi(note())
CONTAINERS = {
    "RIFF": riff((b"data", FILE)),
    "RIFF with another chunk before": riff((b"LIST", b"odd"), (b"data", FILE), (b"DLS ", b"sounds")),
    "a header of 8 bytes": chunk(FILE[8:14] + b"\0\0", b"MThd") + FILE[14:],
    "vendor chunks": FILE[:14] + chunk(b"XFIH", b"XFIH") + FILE[14:] + chunk(b"\xff\x90", b"XFKM"),
    "bytes after the last track": FILE + b"\0\0\0 and some text",
    "a track that the header does not count": header(1) + chunk(events([])) + chunk(events(note())),
    "a header that counts no tracks": header(0) + chunk(events(note())),
    "an empty track": header(2) + chunk(b"") + chunk(events(note())),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_of_other_writers_are_read(kind):
    assert spans(CONTAINERS[kind]) == {60: [(0, 5)]}


BAD = {
    "a RIFF file of type RMID without a data chunk": riff((b"LIST", FILE)),
    "not a MIDI file": b"RIFF\4\0\0\0WAVE",
    "truncated: track 1 of 1 ends early": riff((b"data", FILE[:-6])),
    "truncated: track 2 of 2 ends early": FILE + chunk(events(note()))[:-2],
    "a header of 4 bytes, under 6": chunk(FILE[8:12], b"MThd") + FILE[14:] + bytes(8),
    "a MIDI file without tracks": header(0),
    "a tempo of 2 bytes, not 3": midi([(0, meta(0x51, b"\1\1")), *note()]),
    "a tempo of 4 bytes, not 3": midi([*note(), (0, meta(0x51, b"\7\xa1\x20\0"))]),
    "no note outside the drum channel ends": midi([(0, on(60)), (960, on(62)), (960, off(64))]),
    "no notes outside the drum channel": midi([(0, on(60, 9)), (960, off(60, 9)), (0, off(60))]),
    "status 0xf4 does not exist": midi([(0, b"\xf4"), *note()]),
    "an event without a status": midi([(0, meta(1, b"")), (0, bytes([60, 64])), *note()]),
    "a data byte above 127": midi([(0, bytes([0xC0, 200])), *note()]),
    "no whole events up to byte 39, the end of a track": midi([(0, bytes([0x90, 60, 200])), *note()]),
    "no whole events up to byte": midi([*note(), (0, bytes([0x90, 60]))]),
    "a number of over 9 bytes": midi([(0, b"\xff\1" + b"\x80" * 9 + b"\0"), *note()]),
    "a delta time of over 9 bytes": header(1) + chunk(b"\x80" * 9 + events(note())),
}


@pytest.mark.parametrize("reason", BAD)
def test_unreadable_file_has_the_right_reason(reason):
    with pytest.raises(UnreadableError, match=reason):
        roll(BAD[reason], 5.0)


def test_unison_of_300_tracks_sounds():
    tracks = [note(number, 1920 - number) for number in range(300)]
    assert spans(midi(*tracks)) == {60: [(0, 10)]}
    assert spans(midi(*tracks[:256])) == spans(midi(*tracks[:255])) == {60: [(0, 10)]}


def test_random_files_equal_mido_and_pretty_midi():
    """The files are a few of those that `python -m tests.fuzz` compares."""
    compare(Random(2026), 40)


def test_reader_agrees_with_a_bytewise_one():
    """Both this reader and one that reads byte by byte refuse the same files."""
    random, read = Random(2026), 0
    for number in range(300):
        data = piece(random)
        if number % 2:
            data = damaged(random, data)
        else:
            changed = bytearray(data)
            for _ in range(random.choice([0, 1, 3])):
                changed[random.randrange(22, len(data))] = random.randrange(256)
            data = bytes(changed)
        try:
            whole, _, tracks = read_chunks(data)
        except UnreadableError:
            continue
        try:
            expected = byte_by_byte(whole, tracks)
        except MalformedError:
            with pytest.raises(UnreadableError):
                read_events(data)
            continue
        found = read_events(data)
        assert list(zip(found.key.tolist(), found.tick.tolist(), found.press.tolist(), strict=True)) == expected[0]
        assert list(zip(found.tempo_tick.tolist(), found.tempo.tolist(), strict=True)) == expected[1]
        read += 1
    assert read > 100, "too many files are refused by both"


def test_helpers_write_valid_files():
    assert struct.unpack(">IHHH", FILE[4:14]) == (6, 1, 1, 480)
    assert (quantity(127), quantity(128), quantity(LONGEST)) == (b"\x7f", b"\x81\0", b"\xff\xff\xff\x7f")
    assert (tempo(500_000), pressure(3, 1)) == (b"\xff\x51\x03\x07\xa1\x20", b"\xd1\x03")
