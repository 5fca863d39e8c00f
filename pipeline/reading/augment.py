"""Data augmentation of training sequences: random speed, first frame, musical key and loudness.

Like masks and noise, each change is a pure function of (run seed, epoch, sequence key): it does not depend on the rank,
the batch or the worker that reads the sequence. Validation and evaluation read the data unchanged.
"""

import math

import numpy as np
from pydantic import Field

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from pipeline.sequence import DataSpec, Sequence


class AugmentConfig(Config):
    """Random changes, drawn anew for each training sequence and epoch."""

    stretch: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of speed, as a fraction. The speed is log-uniform on [1 / (1 + stretch), 1 + stretch]. A
    table keeps its values at changed times; other data are interpolated at the same times. 0 keeps the speed."""
    start: int = Field(0, ge=0)
    """Largest number of frames cut off at the beginning. The number is uniform on 0, ..., start. 0 keeps all frames."""
    transpose: int = Field(0, ge=0, le=24)
    """Largest transposition of a piano roll, in semitones. The interval is uniform on -transpose, ..., transpose,
    without those that would move a note out of the 128 pitches. 0 keeps the key."""
    gain: float = Field(0.0, ge=0, le=40)
    """Largest change of the loudness of sound, in decibels. The change is uniform on [-gain, gain]. 0 keeps the
    loudness."""

    def check(self, spec: DataSpec, where: str) -> None:
        """Raise `DriftworkError` for a change that the data do not allow; `where` names the data set."""
        if self.stretch and spec.image is not None:
            raise DriftworkError(
                f"augment.stretch={self.stretch}: pictures of {where} cannot be interpolated; set it to 0"
            )
        if self.transpose and (not spec.binary or spec.table is not None):
            raise DriftworkError(f"augment.transpose={self.transpose}: {where} holds no piano rolls; set it to 0")
        if self.gain and spec.audio_rate is None:
            raise DriftworkError(f"augment.gain={self.gain:g}: {where} holds no sound; set it to 0")


NO_CHANGE = AugmentConfig()


def augment(config: AugmentConfig, spec: DataSpec, sequence: Sequence, seed: int) -> Sequence:
    """Return the changed sequence: frame n is frame `start + speed * n` of the given sequence.

    Its times are the first ones of the given sequence, so the intervals between frames are unchanged. A sequence never
    gets longer, and keeps at least two frames if it has that many.
    """
    speed_draw, start_draw, key_draw, gain_draw = np.random.Generator(np.random.Philox(key=seed)).random(4)
    speed = math.exp((2 * speed_draw - 1) * math.log1p(config.stretch))
    last_start = min(config.start, max(len(sequence.times) - 2, 0))
    first = int(start_draw * (last_start + 1))
    changed = _faster(sequence, speed, first) if spec.table else resample(sequence, spec, speed, first)
    if config.transpose:
        changed = transposed(changed, config.transpose, key_draw)
    if config.gain:
        factor = np.float32(10 ** ((2 * gain_draw - 1) * config.gain / 20))
        changed = changed._replace(values=np.multiply(changed.values, factor))
    return changed


def _faster(sequence: Sequence, speed: float, first: int) -> Sequence:
    """Return the frames from `first` on, with times measured from it and divided by `speed`."""
    times = (sequence.times[first:] - sequence.times[first]) / speed
    return sequence._replace(times=times, values=sequence.values[first:], mask=sequence.mask[first:])


def transposed(sequence: Sequence, largest: int, draw: float) -> Sequence:
    """Return the piano roll transposed by -largest, ..., largest semitones, chosen by `draw` in [0, 1) among the shifts
    that keep every note within the range of pitches."""
    pitches = np.flatnonzero(sequence.values.any(0))
    if not len(pitches):
        return sequence
    down = min(largest, int(pitches[0]))
    up = min(largest, sequence.values.shape[1] - 1 - int(pitches[-1]))
    interval = int(draw * (down + up + 1)) - down
    return sequence._replace(values=np.roll(sequence.values, interval, axis=1))


def resample(sequence: Sequence, spec: DataSpec, speed: float, first: int = 0) -> Sequence:
    """Return the sequence from frame `first` on, played `speed` times as fast.

    Values are interpolated linearly, between frames or between the samples of sound; a binary frame is the nearest one
    in time. A frame is present if all frames from which it is computed are.
    """
    T, D = sequence.values.shape
    if speed == 1.0 or T < 2:
        rest = slice(first, None)
        return sequence._replace(
            times=sequence.times[: T - first], values=sequence.values[rest], mask=sequence.mask[rest]
        )
    parts = D if spec.audio_rate is not None else 1  # interpolated points per frame
    points = sequence.values.reshape(T * parts, -1)
    clock = np.arange(T * parts, dtype=np.float64) if parts > 1 else sequence.times - sequence.times[0]
    at = clock[first * parts] + speed * clock
    at = at[at <= clock[-1]]
    frames = max(len(at) // parts, 1)
    position = np.interp(at[: frames * parts], clock, np.arange(T * parts))
    left = np.minimum(position.astype(np.int64), T * parts - 2)
    share = position - left
    if points.dtype == np.bool_:
        values = points[left + (share > 0.5)]
    else:
        weight = share[:, None].astype(points.dtype)
        values = points[left] + weight * (points[left + 1] - points[left])
    present = np.repeat(sequence.mask, parts)
    there = (present[left] | (share == 1)) & (present[left + 1] | (share == 0))
    return sequence._replace(
        times=sequence.times[:frames],
        values=values.reshape(frames, D),
        mask=there.reshape(frames, parts).all(1),
    )
