import os
import struct
from contextlib import suppress

import numpy as np
import pretty_midi
import pytest

from driftwork.config_base import build
from driftwork.errors import DriftworkError
from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.piano_roll import roll, write_midi
from pipeline.sequence import UnreadableError
from tests.pipeline.readers.midi_bytes import midi, off, on, song, tempo
from tests.places import SAMPLES


def sounding(data: bytes, rate: float = 5.0) -> dict[int, list[int]]:
    """Map each pitch to the frames in which it sounds."""
    frames = roll(data, rate)
    return {int(pitch): np.flatnonzero(frames[:, pitch]).tolist() for pitch in np.flatnonzero(frames.any(axis=0))}


def test_note_sounds_up_to_its_end_frame():
    # 480 ticks = 0.5 s by default; frame k lies at 0.2 k s: the note is [0.2, 0.6)
    assert sounding(midi([(192, on(60)), (384, off(60))])) == {60: [1, 2]}
    # one tick later at both ends: [0.201, 0.601)
    assert sounding(midi([(193, on(60)), (384, off(60))])) == {60: [2, 3]}


def test_awkward_tempo_loses_no_frame():
    # quarters of 333,333 us, 7 ticks each: no tick but every 7th lies on a whole number of microseconds
    ticks = 7 * 10_000
    frames = roll(midi([(0, tempo(333_333)), (ticks, on(60)), (7 * 9, off(60))], division=7), 3.0)
    start, end = 10_000 * 333_333 * 3, 10_009 * 333_333 * 3  # in frames x 10^6
    assert np.flatnonzero(frames.any(axis=1)).tolist() == list(range(-(-start // 10**6), -(-end // 10**6)))


def test_tempo_of_any_track_holds_from_its_tick():
    melody = [(0, on(60)), (480, off(60)), (0, on(62)), (480, off(62)), (0, on(64)), (480, off(64))]
    tempos = [(480, tempo(1_000_000)), (480, tempo(200_000))]
    expected = {60: [0, 1, 2], 62: [3, 4, 5, 6, 7], 64: [8]}  # 0.5 s, 1 s, 0.2 s
    assert sounding(midi(tempos, melody)) == expected
    assert sounding(midi(melody, tempos)) == expected


def test_last_tempo_at_a_tick_holds():
    tempos = [(0, tempo(100_000)), (0, tempo(400_000))]
    assert sounding(midi(tempos, [(0, on(60)), (480, off(60))])) == {60: [0, 1]}


def test_drums_neither_sound_nor_lengthen():
    data = midi([(0, on(60)), (480, off(60))], [(0, on(35, 9)), (4800, off(35, 9))])
    assert sounding(data) == {60: [0, 1, 2]}
    assert len(roll(data, 5.0)) == 3


def test_merged_tracks_join_overlapping_notes():
    left, right = [(0, on(60)), (480, off(60))], [(240, on(60, 1)), (480, off(60, 1)), (0, on(64, 1)), (96, off(64, 1))]
    assert sounding(midi(left, right)) == {60: [0, 1, 2, 3], 64: [4]}


def test_release_ends_all_notes_of_its_key():
    lost = [(0, on(60)), (96, on(60)), (96, off(60))]  # two presses, one release at 0.2 s
    later = [(768, on(60)), (192, off(60)), (768, on(60)), (192, off(60))]  # 1.0 to 1.2 s and 2.0 to 2.2 s
    assert sounding(midi(lost + later))[60] == [0, 5, 10]


def test_notes_of_no_length_are_silent():
    assert sounding(midi([(0, on(60)), (0, off(60)), (0, on(62)), (480, off(62))])) == {62: [0, 1, 2]}


@pytest.mark.parametrize("rate", [5, 10, 7.5, 31.25, 0.5, 100])
def test_written_roll_reads_back_equally(tmp_path, rate):
    frames = np.random.default_rng(0).random((500, 128)) < 0.05
    frames[-1, 60] = True  # trailing silence is not kept
    write_midi(tmp_path / "a.mid", frames, rate)
    assert np.array_equal(roll((tmp_path / "a.mid").read_bytes(), rate), frames)
    assert os.listdir(tmp_path) == ["a.mid"]


def test_pretty_midi_reads_written_notes_in_time(tmp_path):
    frames = np.zeros((10, 128), np.bool_)
    frames[2:7, 60] = True
    write_midi(tmp_path / "a.mid", frames, 7.5)
    (note,) = pretty_midi.PrettyMIDI(str(tmp_path / "a.mid")).instruments[0].notes
    assert (note.start, note.end, note.pitch) == (pytest.approx(2 / 7.5), pytest.approx(7 / 7.5), 60)


BAD = {
    "an empty file": b"",
    "not a MIDI file": b"hello, this is text",
    "truncated in the header": b"MThd\0\0\0\6\0\1",
    "truncated: 1 of 2 tracks are there": midi([(0, on(60)), (480, off(60))], []).removesuffix(midi([])[14:]),
    "truncated: track 1 of 1 ends early": song(1)[:-9],
    "no notes outside the drum channel": midi([(0, on(60, 9)), (480, off(60, 9))]),
    "zero length: no note lasts": midi([(480, on(60)), (0, off(60))]),
    r"too short: 1 frames, under 40 \(dataset.min_seconds\)": midi([(0, on(60)), (10, off(60))]),
    "longer than 4 hours": midi([(0, on(60)), (0x0FFFFFFF, off(60))]),
    "SMPTE": midi([(0, on(60)), (480, off(60))], division=0xE728),
    "without a unit": midi([(0, on(60)), (480, off(60))], division=0),
    "independent patterns": midi([(0, on(60)), (480, off(60))], kind=2),
    "a tempo of no duration": midi([(0, tempo(0)), (0, on(60)), (480, off(60))]),
    "malformed MIDI": midi([(0, bytes([0x90, 200, 64])), (480, off(60))]),
    "too large for a MIDI file": b"MThd" + bytes(17 * 2**20),
}


@pytest.mark.parametrize("reason", BAD)
def test_unusable_file_gives_its_reason(tmp_path, reason):
    (tmp_path / "bad.mid").write_bytes(BAD[reason])
    lakh = Midi(MidiConfig())
    (item,) = lakh.find(tmp_path)
    with pytest.raises(UnreadableError, match=reason):
        lakh.read(tmp_path, item)


def test_file_cut_anywhere_is_refused_or_whole():
    data = song(3, notes=4)
    whole = roll(data, 5.0)
    for end in range(len(data)):
        try:
            assert np.array_equal(roll(data[:end], 5.0), whole), end
        except UnreadableError:
            continue


def test_random_bytes_raise_only_unreadable_error():
    random, data = np.random.default_rng(0), song(3)
    for _ in range(300):
        broken = bytearray(data)
        for position in random.integers(0, len(data), 3):
            broken[position] = random.integers(256)
        with suppress(UnreadableError):
            assert roll(bytes(broken), 5.0).shape[1] == 128


def test_windows_last_a_minute_but_the_tail(tmp_path):
    (tmp_path / "a.mid").write_bytes(song(1, notes=4 * 150))  # 150 s
    lakh = Midi(MidiConfig())
    sequences = lakh.read(tmp_path, lakh.find(tmp_path)[0])
    assert [len(s.times) for s in sequences] == [300, 300, 150]
    assert np.array_equal(np.concatenate([s.values for s in sequences]), roll(song(1, notes=4 * 150), 5.0))
    assert all(s.times[0] == 0 and np.array_equal(s.times, np.arange(len(s.times)) / 5) for s in sequences)
    assert all(s.mask.all() and s.values.dtype == np.bool_ for s in sequences)
    assert len({s.key for s in sequences}) == 3


def lengths(folder, frames, **settings):
    """Return the number of frames of each sequence of a piece of `frames` frames, at 5 frames per second."""
    (folder / "a.mid").write_bytes(midi([(0, on(60)), (192 * frames, off(60))]))
    lakh = Midi(MidiConfig(**settings))
    return [len(s.times) for s in lakh.read(folder, lakh.find(folder)[0])]


@pytest.mark.parametrize(
    ("settings", "shortest"),
    [({}, 40), ({"seconds": 30}, 38), ({"seconds": 6}, 8), ({"min_seconds": 0}, 2), ({"min_seconds": 1.4}, 7)],
)
def test_tail_under_minimum_is_dropped(tmp_path, settings, shortest):
    full = MidiConfig(**settings).length
    assert lengths(tmp_path, full + shortest - 1, **settings) == [full]
    assert lengths(tmp_path, full + shortest, **settings) == [full, shortest]


def test_piece_under_minimum_is_unreadable(tmp_path):
    assert lengths(tmp_path, 40) == [40]
    with pytest.raises(UnreadableError, match="too short: 39 frames, under 40"):
        lengths(tmp_path, 39)


def test_minimum_counts_frames_exactly():
    assert 0.55 * 100 > 55
    assert MidiConfig(rate=100, min_seconds=0.55).shortest == 55


def test_versions_of_a_song_share_its_group(tmp_path):
    names = ["Artist/Title.mid", "Artist/Title.2.MID", "Artist/Titlé (live).midi", "Artist/Title_live.mid"]
    for name in [*names, "Artist/notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(song(1))
    lakh = Midi(MidiConfig())
    items = lakh.find(tmp_path)
    assert [item.name for item in items] == sorted(names)
    assert [item.group for item in items].count("Artist/Title") == 2
    keys = [s.key for item in items for s in lakh.read(tmp_path, item)]
    assert len(set(keys)) == 4
    assert all(key.replace("-", "").replace("_", "").isalnum() and key.isascii() for key in keys)


def test_missing_folder_or_midi_is_one_line(tmp_path):
    lakh = Midi(MidiConfig())
    with pytest.raises(DriftworkError, match=r"no MIDI file \(.mid, .midi, .kar, .rmi\)"):
        lakh.find(tmp_path)
    with pytest.raises(DriftworkError, match="no such folder"):
        lakh.find(tmp_path / "absent")
    with pytest.raises(DriftworkError, match="source is missing"):
        lakh.find(None)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"rate": 23.976}, {"seconds": 0.2}, {"seconds": 0.5}, {"rates": 5}, {"min_seconds": 61}]
)
def test_rate_without_whole_frames_is_refused(wrong):
    with pytest.raises(DriftworkError, match=next(iter(wrong))):
        build(MidiConfig, wrong, where="here")


def test_real_files_against_pretty_midi():
    paths = sorted((SAMPLES / "lakh").rglob("*.mid"))[::20]
    if not paths:
        pytest.skip(f"no real MIDI files in {SAMPLES / 'lakh'}; set DRIFTWORK_SAMPLES")
    for path in paths:
        frames = roll(path.read_bytes(), 5.0)
        times = np.arange(len(frames)) / 5
        expected, on_an_edge = np.zeros_like(frames), np.zeros_like(frames)
        midi_file = pretty_midi.PrettyMIDI(str(path))
        notes = [note for part in midi_file.instruments if not part.is_drum for note in part.notes]
        for note in notes:
            expected[(note.start <= times) & (times < note.end), note.pitch] = True
            edge = (abs(times - note.start) < 1e-6) | (abs(times - note.end) < 1e-6)  # pretty_midi's own rounding
            on_an_edge[edge, note.pitch] = True
        assert not ((frames != expected) & ~on_an_edge).any(), path
        assert len(times) - 1 < max(note.end for note in notes) * 5 + 1e-5 < len(times) + 1e-4, path


def test_header_helper_writes_its_numbers():
    assert struct.unpack(">IHHH", midi([], [])[4:14]) == (6, 1, 2, 480)
