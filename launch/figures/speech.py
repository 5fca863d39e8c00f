"""Speech: waveform, observed samples, a model's reconstruction, and spectrograms."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.mlab import specgram
from matplotlib.patches import Patch
from numpy.typing import NDArray

from launch.figures import style
from launch.figures.scores import LOOKS
from launch.figures.style import BLUE, GREY, HIDDEN, INK, ORANGE, VERMILLION

CLOSE = 0.05
"""Seconds around the loudest instant that are drawn enlarged."""
WINDOW, HOP = 256, 64
"""Length and step of a spectrogram's window, samples: 16 and 4 ms, which shows the formants."""
DECIBELS = 70
"""Level below the loudest point of the truth that is drawn as silence, dB."""
BAND = (5, 95)
"""Percentiles of the draws between which the band is drawn."""


class Speech(NamedTuple):
    """One sequence of N samples in T frames."""

    truth: NDArray[np.float32]
    """[N] true samples."""
    observed: NDArray[np.bool_]
    """[N] whether the sample belongs to an observed frame."""
    interpolated: NDArray[np.float32]
    """[S, N] interpolations, one per draw; a single one for a model without a latent."""
    predicted: NDArray[np.float32] | None
    """[N] prediction of each frame from the observations before it, mean of the draws; None for a smoother."""
    rate: int
    """Samples per second."""

    @property
    def filled(self) -> NDArray[np.float32]:
        """Return the observed samples [N], with the mean of the interpolation elsewhere."""
        return np.where(self.observed, self.truth, self.interpolated.mean(0))

    @property
    def kept(self) -> NDArray[np.float32]:
        """Return the observed samples [N], with silence elsewhere."""
        return np.where(self.observed, self.truth, np.float32(0))


@rc_context(style.STYLE)
def interpolation(path: Path, speech: Speech, title: str) -> list[Path]:
    """Draw waveforms of the whole sequence and of its loudest `CLOSE` seconds, and spectrograms of the sound files."""
    figure = style.page(10, 11.5, title)
    heights = (1, 1, 1.5, 1, 1, 1)
    whole, filled, close, *spectrograms = figure.subplots(6, 1, height_ratios=heights)
    time = np.arange(len(speech.truth)) / speech.rate
    _wave(whole, time, speech, speech.truth, GREY, f"truth; {100 * speech.observed.mean():.0f} % of it was observed")
    _wave(filled, time, speech, speech.filled, BLUE, "interpolation, mean")
    bottom, top = whole.get_ylim()
    filled.set_ylim(bottom, top)
    _close_up(close, time, speech)
    for panel in (whole, filled):
        start, end = close.get_xlim()
        panel.axvspan(start, end, color=ORANGE, alpha=0.4, linewidth=0, zorder=0)
    heard = {"truth": speech.truth, "observed, silence elsewhere": speech.kept, "interpolation": speech.filled}
    _spectrograms(figure, spectrograms, heard, speech.rate)
    for panel in (whole, *spectrograms[:-1]):
        panel.tick_params(labelbottom=False)
    for panel in figure.axes[:6]:
        panel.yaxis.set_label_coords(-0.05, 0.5)  # aligned for any width of the tick labels
    spectrograms[-1].set_xlabel("time [s]")
    _legend(figure, speech)
    return style.save(figure, path)


@rc_context(style.STYLE)
def together(path: Path, speeches: Mapping[str, Speech], title: str) -> list[Path]:
    """Draw the interpolations of several models on one panel, over the loudest `CLOSE` seconds.

    Args:
        speeches: each model's interpolation of the same samples.
    """
    figure = style.page(10, 4.5, title)
    panel = figure.subplots()
    first = next(iter(speeches.values()))
    part = loudest(first.truth, min(len(first.truth), round(CLOSE * first.rate)))
    at = np.arange(len(first.truth))[part] / first.rate
    _hidden(panel, at, first.observed[part], first.rate)
    panel.plot(at, first.truth[part], color=INK, linewidth=1.6, label="truth")
    for (name, speech), (colour, _) in zip(speeches.items(), cycle(LOOKS[1:]), strict=False):
        panel.plot(
            at, np.where(speech.observed[part], np.nan, speech.filled[part]), color=colour, linewidth=1.1, label=name
        )
    panel.set_xlim(at[0], at[0] + len(at) / first.rate)
    panel.set_xlabel("time [s]")
    _bare(panel)
    handles = [*panel.get_legend_handles_labels()[0], Patch(color=HIDDEN, label="not observed")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return style.save(figure, path)


@rc_context(style.STYLE)
def waveforms(
    path: Path, rows: Sequence[tuple[str, NDArray[np.float32], str]], rate: int, given: float, title: str
) -> list[Path]:
    """Draw waveform and spectrogram of each row, on the scales of the first.

    Args:
        rows: label, samples `[N]` and colour of each row. given: end of the given beginning, in seconds, marked by a
            line.
    """
    figure = style.page(10, 0.8 + 1.5 * len(rows), title)
    axes = figure.subplots(len(rows), 2, sharex=True, sharey="col", squeeze=False)
    levels = [decibels(samples, rate) for _, samples, _ in rows]
    top = levels[0].max()
    for (wave, spectrum), (label, samples, colour), level in zip(axes, rows, levels, strict=True):
        wave.plot(np.arange(len(samples)) / rate, samples, color=colour, linewidth=0.5)
        wave.set_title(label, loc="left")
        _bare(wave)
        extent = (-HOP / rate / 2, (level.shape[1] - 0.5) * HOP / rate, 0, rate / 2000)
        spectrum.imshow(
            level - top, cmap="Greys", vmin=-DECIBELS, vmax=0, origin="lower", aspect="auto", extent=extent,
            interpolation="nearest",
        )  # fmt: skip
        spectrum.set_ylabel("frequency [kHz]")
        for panel in (wave, spectrum):
            panel.set_xlim(0, len(rows[0][1]) / rate)
            if given:
                panel.axvline(given, color=VERMILLION, linewidth=1.0)
    for panel in axes[-1]:
        panel.set_xlabel("time [s]; the line is the end of the given samples" if given else "time [s]")
    return style.save(figure, path)


def _wave(panel: Axes, time: np.ndarray, speech: Speech, rest: np.ndarray, colour: str, label: str) -> None:
    """Draw the observed samples in ink, and the `rest` in its colour."""
    panel.plot(time, np.where(speech.observed, np.nan, rest), color=colour, linewidth=0.5)
    panel.plot(time, np.where(speech.observed, speech.truth, np.nan), color=INK, linewidth=0.5)
    panel.set_title(label, loc="left")
    panel.set_xlim(0, len(time) / speech.rate)
    _bare(panel)


def _close_up(panel: Axes, time: np.ndarray, speech: Speech) -> None:
    """Draw truth, interpolation, prediction and the band of the draws, with unobserved frames shaded."""
    part = loudest(speech.truth, min(len(time), round(CLOSE * speech.rate)))
    at, truth = time[part], speech.truth[part]
    _hidden(panel, at, speech.observed[part], speech.rate)
    panel.plot(at, truth, color=INK, linewidth=0.9)
    if len(speech.interpolated) > 1:
        low, high = np.percentile(speech.interpolated[:, part], BAND, axis=0)
        panel.fill_between(at, low, high, color=BLUE, alpha=0.22, linewidth=0)
    panel.plot(at, speech.interpolated[:, part].mean(0), color=BLUE, linewidth=1.2)
    if speech.predicted is not None:
        panel.plot(at, speech.predicted[part], color=VERMILLION, linewidth=1.0, linestyle="--")
    panel.set_title(f"close up, {1000 * len(at) / speech.rate:.0f} ms around the loudest instant", loc="left")
    panel.set_xlim(at[0], at[0] + len(at) / speech.rate)
    _bare(panel)


def _hidden(panel: Axes, at: np.ndarray, observed: np.ndarray, rate: int) -> None:
    """Shade the samples that were not observed."""
    hidden = np.concatenate([[0], ~observed, [0]]).astype(np.int8)
    for start, end in zip(np.flatnonzero(np.diff(hidden) > 0), np.flatnonzero(np.diff(hidden) < 0), strict=True):
        panel.axvspan(at[0] + start / rate, at[0] + end / rate, color=HIDDEN, linewidth=0, zorder=0)


def loudest(samples: np.ndarray, count: int) -> slice:
    """Return the `count` successive samples with the most energy."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int((energy[count:] - energy[:-count]).argmax())
    return slice(start, start + count)


def _bare(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_ylabel("amplitude")


def _spectrograms(figure: Figure, panels: Sequence[Axes], heard: dict[str, np.ndarray], rate: int) -> None:
    """Draw a spectrogram per panel, ink on paper, on the truth's scale."""
    levels = [decibels(samples, rate) for samples in heard.values()]
    top = levels[0].max()
    seconds, hop, bin_width = heard["truth"].size / rate, HOP / rate, rate / WINDOW / 1000
    rows, columns = levels[0].shape  # a cell is centred on its frequency and on the middle of its window
    extent = (-hop / 2, (columns - 0.5) * hop, -bin_width / 2, (rows - 0.5) * bin_width)
    for panel, label, level in zip(panels, heard, levels, strict=True):
        picture = panel.imshow(
            level - top, cmap="Greys", vmin=-DECIBELS, vmax=0, origin="lower", aspect="auto",
            extent=extent, interpolation="nearest",
        )  # fmt: skip
        panel.set_title(label, loc="left")
        panel.set_xlim(0, seconds)
        panel.set_ylim(0, rate / 2000)
        panel.set_ylabel("frequency [kHz]")
    figure.colorbar(picture, ax=list(panels), label="power [dB]", aspect=40, pad=0.01)


def decibels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the power density [frequencies, windows] in dB: row f is f rate / WINDOW Hz, column k is centred on sample
    k HOP."""
    padded = np.pad(samples.astype(np.float64), WINDOW // 2)
    power, _, _ = specgram(padded, NFFT=WINDOW, Fs=rate, noverlap=WINDOW - HOP)
    level: np.ndarray = 10 * np.log10(np.maximum(power, 1e-20))
    return level


def _legend(figure: Figure, speech: Speech) -> None:
    handles: list[Patch | Line2D] = [
        Line2D([], [], color=INK, label="truth, observed; all samples in the close-up"),
        Line2D([], [], color=GREY, label="truth, not observed"),
        Line2D([], [], color=BLUE, label="interpolation, from all observations"),
        Patch(color=HIDDEN, label="not observed, in the close-up"),
        Patch(color=ORANGE, alpha=0.4, linewidth=0, label="samples in the close-up"),
    ]
    if speech.predicted is not None:
        handles.insert(
            3, Line2D([], [], color=VERMILLION, linestyle="--", label="prediction, from earlier observations")
        )
    if len(speech.interpolated) > 1:
        share = f"{BAND[1] - BAND[0]} % of {len(speech.interpolated)} draws"
        handles.insert(3, Patch(color=BLUE, alpha=0.22, linewidth=0, label=share))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=1.4)
