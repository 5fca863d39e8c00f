"""Random MIDI files read by this project, by mido and by pretty_midi. A part of `python -m tests.fuzz`."""

from collections import Counter
from random import Random

import numpy as np

from pipeline.readers.piano_roll import roll
from tests.pipeline.readers.midi_bytes import piece
from tests.pipeline.readers.midi_readers import roll_by_mido, roll_by_pretty_midi

RATES = [5.0, 7.5, 24.0, 100.0]


def compare(random: Random, cases: int) -> Counter[str]:
    """Read files with lost releases, program changes, SysEx in packets and escapes; all readers must agree on frames.

    Every second file has no tempos and is also read by pretty_midi, which reads only the tempos of the first track.
    """
    for number in range(cases):
        data, rate = piece(random, tempos=number % 2 == 0), random.choice(RATES)
        frames = roll(data, rate)
        assert np.array_equal(frames, roll_by_mido(data, rate)), f"file {number}: mido reads other frames"
        if number % 2:
            assert np.array_equal(frames, roll_by_pretty_midi(data, rate)), f"file {number}: pretty_midi reads others"
    return Counter(equal=cases)
