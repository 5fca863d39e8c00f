"""Piano rolls: truth, observed frames, and models' reconstructions."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from launch.figures import style
from launch.figures.style import HIDDEN, INK

HIT, FALSE, MISSED = style.BLUE, style.VERMILLION, style.ORANGE


class Guess(NamedTuple):
    """One model's reconstruction."""

    label: str
    probabilities: np.ndarray
    """Probability of each pitch, `[T, 128]`."""
    notes: np.ndarray
    """bool `[T, 128]`, notes decided from the probabilities."""


@rc_context(style.STYLE)
def interpolation(
    path: Path,
    *,
    truth: np.ndarray,
    observed: np.ndarray,
    rows: Sequence[Guess],
    rate: float,
    title: str,
) -> list[Path]:
    """Draw piano rolls over one time axis: truth, observed frames, and each model's reconstruction.

    Args:
        truth: bool `[T, 128]`, the pitches that sound.
        observed: bool `[T]`, the frames that the models observed.
        rows: reconstruction of each model. Hits, false and missed notes have a colour each, as the accuracy
            TP / (TP + FP + FN) counts them; grey is the probability of the rest.
        rate: frames per second.
    """
    low, high = _sounding([truth, *(row.notes for row in rows)])
    figure = style.page(10, 1.0 + 1.55 * (2 + len(rows)), title)
    axes = list(figure.subplots(2 + len(rows), 1, sharex=True, sharey=True))
    extent = (0.0, len(truth) / rate, low - 0.5, high + 0.5)
    samples = np.where(observed[:, None, None], _ink(truth), np.array(to_rgb(HIDDEN)))
    pictures = [("truth", _ink(truth)), (f"observed, {100 * observed.mean():.0f} % of the frames", samples)]
    pictures += [(row.label, _scored(truth, row)) for row in rows]
    for panel, (label, picture) in zip(axes, pictures, strict=True):
        panel.imshow(
            picture[:, low : high + 1].swapaxes(0, 1),
            extent=extent,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        panel.set_title(label, loc="left", pad=7)
        _pitch_axis(panel, low, high)
    for panel in axes[2:]:
        _mark(panel, observed, rate)
    for panel in axes[:-1]:
        panel.tick_params(axis="x", length=0)
    axes[-1].set_xlabel("time [s]")
    _legend(figure)
    return style.save(figure, path)


class Roll(NamedTuple):
    """One panel of `stacked`."""

    label: str
    probabilities: np.ndarray
    """Probability of each pitch, `[T, 128]`."""
    notes: np.ndarray
    """bool `[T, 128]`, notes decided from the probabilities."""
    rate: float
    """Frames per second."""
    colour: str = style.BLUE


@rc_context(style.STYLE)
def stacked(path: Path, rows: Sequence[Roll], observed: np.ndarray, given: float, title: str) -> list[Path]:
    """Draw piano rolls over one time axis, each at its own rate: notes in the row's colour, and the probability of the
    rest in grey.

    Args:
        observed: `[K]` times of the observed frames, seconds.
        given: end of the given beginning, in seconds, marked by a line.
    """
    lows, highs = zip(*(_sounding([row.notes]) for row in rows), strict=True)
    low, high = min(lows), max(highs)
    figure = style.page(10, 1.0 + 1.55 * len(rows), title)
    axes = figure.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, row in zip(axes, rows, strict=True):
        picture = _grey(row.probabilities)
        picture[row.notes] = to_rgb(row.colour)
        panel.imshow(
            picture[:, low : high + 1].swapaxes(0, 1), extent=(0.0, len(picture) / row.rate, low - 0.5, high + 0.5),
            origin="lower", aspect="auto", interpolation="nearest",
        )  # fmt: skip
        panel.set_title(row.label, loc="left", pad=7)
        panel.vlines(
            observed, 1.01, 1.04, transform=panel.get_xaxis_transform(), color=INK, linewidth=0.8, clip_on=False
        )
        if given:
            panel.axvline(given, color=FALSE, linewidth=1.2)
        _pitch_axis(panel, low, high)
    for panel in axes[:-1]:
        panel.tick_params(axis="x", length=0)
    axes[-1].set_xlabel("time [s]")
    handles: list[Patch | Line2D] = [_rest()]
    if len(observed):
        handles.append(Line2D([], [], color=INK, marker="|", linestyle="none", markersize=5, label="observed frame"))
    if given:
        handles.append(Line2D([], [], color=FALSE, linewidth=1.2, label="end of the given frames"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=1.0)
    return style.save(figure, path)


def _ink(roll: np.ndarray) -> np.ndarray:
    """Return RGB `[T, 128, 3]` of a bool roll `[T, 128]`, dark on white."""
    return np.where(roll[..., None], np.array(to_rgb(INK)), 1.0)


def _grey(probabilities: np.ndarray) -> np.ndarray:
    """Return RGB `[T, 128, 3]` of probabilities, white to grey."""
    return np.repeat(1.0 - 0.8 * np.clip(probabilities, 0, 1)[..., None], 3, axis=-1)


def _scored(truth: np.ndarray, guess: Guess) -> np.ndarray:
    """Return RGB `[T, 128, 3]`: grey by probability, and over it a colour where truth or model has a note."""
    picture = _grey(guess.probabilities)
    picture[truth & guess.notes] = to_rgb(HIT)
    picture[~truth & guess.notes] = to_rgb(FALSE)
    picture[truth & ~guess.notes] = to_rgb(MISSED)
    return picture


def _sounding(rolls: Sequence[np.ndarray]) -> tuple[int, int]:
    """Return the lowest and highest pitch to show: the range of all notes with a margin of a tone, at least an
    octave."""
    sounds = np.any([roll.any(axis=0) for roll in rolls], axis=0)
    pitches = np.flatnonzero(sounds)
    low, high = (int(pitches[0]) - 2, int(pitches[-1]) + 2) if len(pitches) else (54, 66)
    missing = max(0, 12 - (high - low))
    return max(0, low - missing // 2), min(127, high + (missing + 1) // 2)


def _pitch_axis(panel: Axes, low: int, high: int) -> None:
    cs = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    panel.set_yticks(cs, [f"C{pitch // 12 - 1}" for pitch in cs])  # 60 is C4
    panel.grid(axis="y", color="#999999", linewidth=0.4, alpha=0.5)
    panel.set_ylabel("pitch")


def _mark(panel: Axes, observed: np.ndarray, rate: float) -> None:
    """Draw a tick on top of the panel at the middle of each observed frame."""
    centres = (np.flatnonzero(observed) + 0.5) / rate
    panel.vlines(centres, 1.01, 1.04, transform=panel.get_xaxis_transform(), color=INK, linewidth=0.8, clip_on=False)


def _rest() -> Patch:
    return Patch(color="#BBBBBB", label="probability, no note")


def _legend(figure: Figure) -> None:
    kinds = {"hit": HIT, "false note": FALSE, "missed note": MISSED}
    handles: list[Patch | Line2D] = [Patch(color=colour, label=label) for label, colour in kinds.items()]
    handles.append(_rest())
    handles.append(Line2D([], [], color=INK, marker="|", linestyle="none", markersize=5, label="observed frame"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, handlelength=1.0)
