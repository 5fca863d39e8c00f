"""The chunks of a Standard MIDI File: its header and the positions of its tracks."""

import struct

from pipeline.sequence import UnreadableError


def read_chunks(data: bytes) -> tuple[bytes, int, list[tuple[int, int]]]:
    """Return the file without a RIFF wrapper (.rmi), the ticks per quarter, and (start, end) of each track in bytes.

    Tracks beyond the header's count are read too; chunks of other kinds are skipped. Raises `UnreadableError` with the
    reason.
    """
    data = _unwrapped(data)
    if not data:
        raise UnreadableError("an empty file")
    if data[:4] != b"MThd":
        raise UnreadableError("not a MIDI file (it does not begin with MThd)")
    if len(data) < 14:
        raise UnreadableError("truncated in the header")
    size, kind, declared, division = struct.unpack_from(">IHHH", data, 4)
    if size < 6:
        raise UnreadableError(f"malformed MIDI: a header of {size} bytes, under 6")
    if division == 0 or division & 0x8000:
        raise UnreadableError("time in SMPTE frames or without a unit, not in ticks per quarter")
    if kind > 1:
        raise UnreadableError(f"MIDI format {kind} (independent patterns), not one piece of music")
    return data, division, _tracks(data, 8 + size, declared)


def _tracks(data: bytes, at: int, declared: int) -> list[tuple[int, int]]:
    tracks = []
    while at + 8 <= len(data):
        name, size = struct.unpack_from(">4sI", data, at)
        at += 8 + size
        if name == b"MTrk":
            tracks.append((at - size, at))
            if at > len(data):
                raise UnreadableError(f"truncated: track {len(tracks)} of {max(declared, len(tracks))} ends early")
    if len(tracks) < declared:
        raise UnreadableError(f"truncated: {len(tracks)} of {declared} tracks are there")
    if not tracks:
        raise UnreadableError("a MIDI file without tracks")
    return tracks


def _unwrapped(data: bytes) -> bytes:
    """Return the MIDI file in a RIFF file of type RMID, and other data unchanged."""
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            return data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    raise UnreadableError("a RIFF file of type RMID without a data chunk")
