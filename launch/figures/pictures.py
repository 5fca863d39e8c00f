"""Films as strips of frames, with truth above forecast or a row per film, and as animations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from driftwork.files import aside
from launch.figures import style


@rc_context(style.STYLE)
def strips(
    path: Path,
    *,
    keys: Sequence[str],
    truth: np.ndarray,
    present: np.ndarray,
    forecast: np.ndarray,
    image: tuple[int, int],
    given: int,
    title: str,
) -> list[Path]:
    """Draw a pair of rows per sequence: its frames, and their forecasts. Given frames are outlined.

    Args:
        truth, forecast: `[N, T, D]`, grey in [0, 1], drawn as ink on paper. present: bool `[N, T]`, True for existing
            frames.
        image: height and width of a frame.
    """
    N, T = present.shape
    height, width = image[0] + 2, image[1] + 2  # two pixels of paper between frames
    inches = 9.0 / (T * width)
    figure = style.page(10, 0.9 + N * (2 * height * inches + 0.32), title)
    panels = figure.subplots(N, 1, sharex=True, squeeze=False)[:, 0]
    for n, panel in enumerate(panels):
        rows = [_row(truth[n], image, present[n]), _row(forecast[n], image, np.ones(T, bool))]
        panel.imshow(np.concatenate(rows), interpolation="nearest", extent=(0, T * width, 2 * height, 0))
        for frame in np.flatnonzero(present[n, :given]):
            corner = (frame * width + 0.25, 0.25)
            panel.add_patch(Rectangle(corner, width - 0.5, height - 0.5, fill=False, color=style.BLUE, linewidth=1.4))
        _axes(panel, keys[n], width * np.arange(T) + width / 2, height)
    panels[-1].tick_params(axis="x", labelbottom=True)
    panels[-1].set_xlabel("frame")
    legend = [Patch(fill=False, edgecolor=style.BLUE, linewidth=1.4, label="given to the model")]
    if not present.all():
        legend.append(Patch(color=style.HIDDEN, label="missing in the data"))
    figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False, handlelength=1.2)
    return style.save(figure, path)


@rc_context(style.STYLE)
def films(
    path: Path, rows: Sequence[tuple[str, np.ndarray]], image: tuple[int, int], rate: float, title: str
) -> list[Path]:
    """Draw a row of frames `[T, D]` for each label; the time axis starts at each row's first frame, in seconds."""
    T = max(len(film) for _, film in rows)
    height, width = image[0] + 2, image[1] + 2
    inches = 9.0 / (T * width)
    figure = style.page(10, 0.9 + len(rows) * (height * inches + 0.3), title)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (label, film) in zip(panels, rows, strict=True):
        panel.imshow(
            _row(film, image, np.ones(len(film), bool)), interpolation="nearest",
            extent=(0, len(film) * width, height, 0),
        )  # fmt: skip
        panel.set_xlim(0, T * width)
        panel.set_title(label, loc="left", fontsize=8, color=style.GREY, pad=3)
        panel.set_yticks([])
        every = max(1, T // 10)
        panel.set_xticks(width * (np.arange(0, T, every) + 0.5), [f"{t / rate:.2g}" for t in range(0, T, every)])
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    panels[-1].set_xlabel("time [s]")
    return style.save(figure, path)


def animate(path: Path, film: np.ndarray, image: tuple[int, int], rate: float) -> None:
    """Write the film `[T, D]` as a GIF at its own speed, rounded to GIF's unit of a hundredth of a second. Beyond 50
    frames per second some are left out, since viewers show shorter frames for much longer."""
    times = np.arange(0, len(film), -(-rate // 50)) / rate
    ends = np.rint(100 * np.append(times, len(film) / rate)).astype(int)
    size = max(1, 224 // image[0])
    levels = np.rint(255 * (1 - np.clip(film[np.rint(times * rate).astype(int)], 0, 1))).astype(np.uint8)
    pictures = [Image.fromarray(frame.repeat(size, 0).repeat(size, 1)) for frame in levels.reshape(len(times), *image)]
    with aside(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], loop=0, optimize=False,
            duration=(10 * np.diff(ends).clip(2)).tolist(),
        )  # fmt: skip


def _row(film: np.ndarray, image: tuple[int, int], present: np.ndarray) -> np.ndarray:
    """Return RGB `[H + 2, T (W + 2), 3]` of the frames `[T, D]` side by side, each with a border of one pixel."""
    frames = film.reshape(len(film), *image, 1)
    ink = 1 - np.clip(frames, 0, 1) * (1 - np.array(to_rgb(style.INK)))
    ink[~present] = to_rgb(style.HIDDEN)
    bordered = np.pad(ink, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    return np.concatenate(list(bordered), axis=1)


def _axes(panel: Axes, key: str, centres: np.ndarray, height: int) -> None:
    panel.set_title(key, loc="left", fontsize=8, color=style.GREY, pad=3)
    panel.set_yticks([height / 2, 1.5 * height], ["truth", "forecast"])
    panel.set_xticks(centres, [str(frame + 1) for frame in range(len(centres))])
    panel.tick_params(length=0, labelbottom=False)
    panel.spines[:].set_visible(False)
