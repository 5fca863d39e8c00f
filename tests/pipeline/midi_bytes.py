"""MIDI files made byte by byte, so that no library stands between a test and what it means."""

import struct
from pathlib import Path


def on(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x90 | channel, pitch, 64])


def off(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x80 | channel, pitch, 0])


def tempo(microseconds: int) -> bytes:
    return b"\xff\x51\x03" + microseconds.to_bytes(3, "big")


def midi(*tracks: list[tuple[int, bytes]], division: int = 480, kind: int = 1) -> bytes:
    """A file of tracks of (ticks since the last event, event)."""
    data = b"MThd" + struct.pack(">IHHH", 6, kind, len(tracks), division)
    for track in tracks:
        events = b"".join(_quantity(ticks) + event for ticks, event in track) + b"\0\xff\x2f\0"
        data += b"MTrk" + struct.pack(">I", len(events)) + events
    return data


def song(seed: int, notes: int = 60) -> bytes:
    """A piece of `notes` eighth notes at 120 to the minute, another for each seed: 0.25 s a note."""
    track = [(0, tempo(500_000))]
    for step in range(notes):
        pitch = 40 + (seed * 7 + step * (seed % 5 + 1)) % 48
        track += [(0, on(pitch)), (240, off(pitch))]
    return midi(track)


def corpus(folder: Path, songs: int) -> Path:
    """`songs` pieces as Artist/Title.mid below `folder`."""
    for number in range(songs):
        path = folder / f"Artist {number % 3}" / f"Title {number}.mid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(song(number))
    return folder


def _quantity(number: int) -> bytes:
    """MIDI's variable-length quantity."""
    septets = [number & 127]
    while number := number >> 7:
        septets.append(128 | (number & 127))
    return bytes(reversed(septets))
