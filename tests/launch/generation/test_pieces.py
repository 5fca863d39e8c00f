"""Sequences chosen by key, the user's own files, and continuations past the end."""

import numpy as np
import pretty_midi
import pytest
import soundfile

from pipeline.readers.mocap import features
from pipeline.readers.piano_roll import write_midi
from pipeline.readers.skeleton import parse_amc, parse_asf
from tests.launch.generation.generated import HONEST, amc_frames, drawn, made, roll


def notes_of(path):
    """Return (pitch, start, end) of every note, in thousandths of a second."""
    notes = [note for instrument in pretty_midi.PrettyMIDI(str(path)).instruments for note in instrument.notes]
    return sorted((note.pitch, round(1000 * note.start), round(1000 * note.end)) for note in notes)


def test_given_notes_stay_one_note_at_higher_rates(music, tmp_path):
    """All frames of a user's file are given. The output has as many notes, each within a frame of its original."""
    run, _ = music
    frames = np.random.default_rng(1).random((20, 128)) < 0.4
    frames[:, :40] = False
    write_midi(tmp_path / "mine.mid", frames, 5.0)
    record = made(tmp_path / "out", run, f"source={tmp_path / 'mine.mid'}", "ratio=1", "rate=20", "decision=0.5")
    (entry,) = drawn(record)
    given, found = notes_of(tmp_path / "mine.mid"), notes_of(tmp_path / "out" / entry["file"])
    assert len(given) > 300
    assert [pitch for pitch, *_ in found] == [pitch for pitch, *_ in given]
    for (_, start, end), (_, ours, past) in zip(given, found, strict=True):
        assert start - 200 < ours <= start
        assert end - 200 < past <= end or end == 4000  # the last requested frame lies at 3.8 s


def test_continuation_passes_the_end(music, tmp_path):
    """The sequence is selected by its key, and all of its frames are given."""
    run, sequences = music
    key = sorted(key for key in sequences if key.startswith("test"))[2]
    record = made(tmp_path / "out", run, "what=continuation", f"keys=[{key}]", "seconds=6", "draws=1", "rate=5")
    truth, entry = record["files"]
    own = sequences[key]
    assert {x["sequence"] for x in record["files"]} == {key}
    assert (truth["frames"], entry["frames"]) == (len(own.times), 30)
    assert entry["seconds_given"] == pytest.approx(len(own.times) / 5)
    played = roll(tmp_path / "out" / entry["file"], 5, 30)
    shown = np.flatnonzero(own.mask)
    assert np.array_equal(played[shown], own.values[shown])


@pytest.mark.parametrize("kind", ["speech", "motion"])
def test_own_file_is_read_like_the_data(kind, request, place, tmp_path):
    run, _ = request.getfixturevalue(kind)
    if kind == "speech":
        pcm = np.random.default_rng(2).integers(-9000, 9000, 8000, np.int16)
        soundfile.write(tmp_path / "my voice.wav", pcm, 16000)
        record = made(tmp_path / "out", run, f"source={tmp_path / 'my voice.wav'}")
        samples, _ = soundfile.read(tmp_path / "out" / record["files"][0]["file"], dtype="int16")
        assert np.array_equal(samples, pcm)
    else:
        for name, new in (("35_31.amc", "mine.amc"), ("35.asf", "any.asf")):
            (tmp_path / new).write_text((place / "walks-raw" / name).read_text())
        record = made(tmp_path / "out", run, f"source={tmp_path / 'mine.amc'}", "draws=1")
        bones = (tmp_path / "any.asf").read_text()
        trial = parse_amc((tmp_path / "mine.amc").read_text(), parse_asf(bones)).values
        values = amc_frames(tmp_path / "out" / record["files"][0]["file"], bones)
        _, about = features(parse_amc((tmp_path / "mine.amc").read_text(), parse_asf(bones)), parse_asf(bones), HONEST)
        assert len(values) == len(trial)
        np.testing.assert_allclose(values[:, :3], trial[:, :3], rtol=0, atol=1e-3)
        assert about["start"] == pytest.approx(list(values[0, :3]), rel=1e-6)
