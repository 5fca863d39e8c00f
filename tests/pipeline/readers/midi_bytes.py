"""MIDI files made byte by byte, so that tests depend on no library's writer."""

import struct
from pathlib import Path
from random import Random


def on(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x90 | channel, pitch, 64])


def off(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x80 | channel, pitch, 0])


def program(number: int, channel: int = 0) -> bytes:
    return bytes([0xC0 | channel, number])


def pressure(value: int, channel: int = 0) -> bytes:
    return bytes([0xD0 | channel, value])


def meta(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + quantity(len(data)) + data


def tempo(microseconds: int) -> bytes:
    return meta(0x51, microseconds.to_bytes(3, "big"))


def sysex(data: bytes) -> bytes:
    """Return a system exclusive message or its first packet; the last packet ends in F7."""
    return b"\xf0" + quantity(len(data)) + data


def packet(data: bytes) -> bytes:
    """Return a further packet of a system exclusive message, or an escape: any bytes to be sent."""
    return b"\xf7" + quantity(len(data)) + data


def midi(*tracks: list[tuple[int, bytes]], division: int = 480, kind: int = 1) -> bytes:
    """Return a file of tracks of (ticks since the last event, event)."""
    return header(len(tracks), division, kind) + b"".join(chunk(events(track)) for track in tracks)


def header(tracks: int, division: int = 480, kind: int = 1) -> bytes:
    return chunk(struct.pack(">HHH", kind, tracks, division), b"MThd")


def chunk(data: bytes, name: bytes = b"MTrk") -> bytes:
    return name + struct.pack(">I", len(data)) + data


def events(track: list[tuple[int, bytes]]) -> bytes:
    """Return the data of a track, with its end."""
    return b"".join(quantity(ticks) + event for ticks, event in [*track, (0, meta(0x2F, b""))])


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a RIFF file of type RMID."""
    body = b"RMID" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def song(seed: int, notes: int = 60) -> bytes:
    """Return a piece of `notes` eighth notes at 120 quarters per minute, 0.25 s each, which differs for each seed."""
    track = [(0, tempo(500_000))]
    for step in range(notes):
        pitch = 40 + (seed * 7 + step * (seed % 5 + 1)) % 48
        track += [(0, on(pitch)), (240, off(pitch))]
    return midi(track)


def corpus(folder: Path, songs: int) -> Path:
    """Write `songs` pieces as Artist/Title.mid below `folder`."""
    for number in range(songs):
        path = folder / f"Artist {number % 3}" / f"Title {number}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(song(number))
    return folder


def piece(random: Random, tempos: bool = True) -> bytes:
    """Return a file of all kinds of events, with lost releases and keys that are pressed while down.

    Without `tempos` it has 480 ticks per quarter.
    """
    tracks = [_events(random, tempos) for _ in range(random.randint(1, 4))]
    sure = [(0, on(60)), (4800, off(60))]
    data = [_in_running_status(random, track) for track in [*tracks, sure]]
    return header(len(data), random.choice([96, 120, 480]) if tempos else 480) + b"".join(map(chunk, data))


def _events(random: Random, tempos: bool) -> list[tuple[int, bytes]]:
    """Return the events of a track: few keys of few channels, so that many keys are pressed while they are down."""
    track: list[tuple[int, bytes]] = []
    channels, pitches = random.sample([0, 1, 9, 15], 2), random.sample(range(128), 3)
    for _ in range(random.randint(0, 60)):
        ticks = random.choice([0, 0, 1, 60, 127, 128, 240, 300, random.randint(0, 1000), random.randint(0, 20_000)])
        channel, pitch = random.choice(channels), random.choice(pitches)
        data = random.randbytes(random.choice([0, 1, 3, 30, 127, 128, 200]))
        kinds = [
            *[on(pitch, channel)] * 8, *[off(pitch, channel)] * 4, *[bytes([0x90 | channel, pitch, 0])] * 4,
            program(random.randrange(128), channel), pressure(random.randrange(128), channel),
            bytes([0xB0 | channel, random.randrange(128), random.randrange(128)]),
            bytes([0xE0 | channel, random.randrange(128), random.randrange(128)]),
            bytes([0xA0 | channel, pitch, random.randrange(128)]),
            meta(random.choice([1, 5, 6, 0x7F]), data), sysex(data + b"\xf7"), packet(data),
            *[tempo(random.choice([300_000, 500_000, 733_333]))] * tempos,
        ]  # fmt: skip
        track.append((ticks, random.choice(kinds)))
        if random.random() < 0.05:
            track += [(0, sysex(b"\x43\x12\0")), (random.randint(0, 300), packet(b"\x43\x12\0\xf7"))]
    return track


def _in_running_status(random: Random, track: list[tuple[int, bytes]]) -> bytes:
    """Return the data of a track, in which most statuses that may be omitted are omitted."""
    data, status = b"", 0
    for ticks, event in [*track, (0, meta(0x2F, b""))]:
        same = event[0] == status and event[0] < 0xF0 and random.random() < 0.8
        data += quantity(ticks) + event[same:]
        status = status if event[0] == 0xFF else event[0]  # mido forgets it at F0 and F7, by the specification
    return data


def quantity(number: int) -> bytes:
    """Return MIDI's variable-length form of a number."""
    septets = [number & 127]
    while number := number >> 7:
        septets.append(128 | (number & 127))
    return bytes(reversed(septets))
