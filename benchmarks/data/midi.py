"""Compare reading a MIDI file to a piano roll with pretty_midi: `python -m benchmarks.data.midi [DIR]`.

Both run in one process from a file name to the same bool [T, 128]. Without DIR music21's chorales are read, eight
joined into each file: a chorale lasts half a minute, a song of the Lakh data set about four minutes.
"""

import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import mido
import numpy as np
import pretty_midi
from numpy.typing import NDArray

from pipeline.fetch.chorales import write_chorales
from pipeline.readers.piano_roll import roll

RATE = 5.0
FILES = 40
AT_LEAST = 30.0


def ours(path: Path) -> NDArray[np.bool_]:
    return roll(path.read_bytes(), RATE)


def theirs(path: Path) -> NDArray[np.bool_]:
    """Return the same frames from pretty_midi's notes; its own get_piano_roll samples at other times."""
    midi = pretty_midi.PrettyMIDI(str(path))
    notes = [note for instrument in midi.instruments if not instrument.is_drum for note in instrument.notes]
    first, past = np.ceil(np.array([(note.start, note.end) for note in notes]).T * RATE - 1e-6).astype(int)
    frames = np.zeros((past.max(), 128), np.bool_)
    for note, start, end in zip(notes, first, past, strict=True):
        frames[start:end, note.pitch] = True
    return frames


def join(chorales: list[Path], path: Path) -> None:
    """Concatenate pieces in time, track by track."""
    whole = mido.MidiFile(chorales[0])
    for chorale in chorales[1:]:
        ends = [sum(message.time for message in track) for track in whole.tracks]
        for ours, theirs, end in zip(whole.tracks, mido.MidiFile(chorale).tracks, ends, strict=False):
            theirs[0].time += max(ends) - end
            ours.extend(theirs)
    whole.save(path)


def songs(folder: Path) -> Path:
    """Write 44 pieces of about four minutes into `folder`, and return their folder."""
    chorales, made = folder / "chorales", folder / "songs"
    write_chorales(chorales)
    made.mkdir()
    pieces = sorted(chorales.glob("*.mid"))
    for i in range(0, len(pieces), 8):
        join(pieces[i : i + 8], made / f"{i:03d}.mid")
    return made


def seconds(read: Callable[[Path], NDArray[np.bool_]], path: Path, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        read(path)
        best = min(best, time.perf_counter() - start)
    return best


def main(folder: Path) -> None:
    paths = sorted(folder.rglob("*.mid"))
    paths = paths[:: max(1, len(paths) // FILES)]
    warnings.simplefilter("ignore")  # pretty_midi's, on tempo events outside the first track
    agree = sum(np.array_equal(ours(path), theirs(path)) for path in paths)
    fast = statistics.median(seconds(ours, path, 5) for path in paths)
    slow = statistics.median(seconds(theirs, path, 2) for path in paths)
    print(f"{len(paths)} MIDI files to rolls at {RATE:g} frames/s, one core; {agree} rolls are equal")
    print(f"driftwork {fast * 1e3:.2f} ms, pretty_midi {slow * 1e3:.2f} ms per file (medians)")
    print(f"ratio {slow / fast:.0f}x; required: at least {AT_LEAST:.0f}x")
    if slow / fast < AT_LEAST:
        raise SystemExit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(songs(Path(temporary)))
