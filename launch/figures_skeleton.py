"""Skeletons that walk beside each other, as an animated GIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from PIL import Image

from launch import figures
from pipeline.skeleton import Skeleton

STRIDE, PAUSE = 3, 50
"""Every third frame for 50 ms: at 120 frames a second, half the speed of life."""
_TURN = np.radians(25)
"""The camera stands at the walker's right, this much towards the front."""
_COLOURS = ((figures.INK, "#A9A9A9"), (figures.BLUE, "#8CC4E8"))
"""Of each walk: trunk and right half of the body, and the left half, which is farther away."""


class Walk(NamedTuple):
    name: str
    joints: np.ndarray
    """[T, J, 3] metres, y upwards."""


@rc_context(figures.STYLE)
def animate(path: Path, walks: Sequence[Walk], skeleton: Skeleton, rate: float, title: str) -> None:
    """Two walks of as many frames, each in a panel whose camera follows the root along the ground.

    Args:
        rate: frames a second.
    """
    figure = figures.page(7.2, 4.0, title)
    panels = list(figure.subplots(1, len(walks), sharey=True))
    points = [_seen(walk.joints, along=walks[0].joints) for walk in walks]
    bones = _bones(skeleton)
    bodies = [_body(panel, at, colours, skeleton) for panel, at, colours in zip(panels, points, _COLOURS, strict=True)]
    pictures: list[Image.Image] = []
    for frame in range(0, len(points[0]), STRIDE):
        for panel, body, at, walk in zip(panels, bodies, points, walks, strict=True):
            body.set_segments(list(at[frame][bones]))
            panel.set_xlim(at[frame, 0, 0] - 1.0, at[frame, 0, 0] + 1.0)
            panel.set_title(f"{walk.name}, {frame / rate:.2f} s", loc="left")
        pictures.append(_picture(figure, pictures))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=PAUSE, loop=0)


def _seen(joints: np.ndarray, along: np.ndarray) -> np.ndarray:
    """[T, J, 2] on the screen, by a camera beside the path of the walk `along`, whose root comes first."""
    x, _, z = along[-1, 0] - along[0, 0]
    angle = np.arctan2(z, x) + _TURN
    right = np.array([np.cos(angle), 0.0, np.sin(angle)])
    return np.stack([joints @ right, joints[..., 1]], -1)


def _bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Where each bone begins and ends, as numbers of joints; the left half first, to be drawn behind the rest."""
    index = {bone.name: j for j, bone in enumerate(skeleton.bones)}
    ends = [(index[bone.parent], j) for j, bone in enumerate(skeleton.bones) if bone.parent]
    return sorted(ends, key=lambda end: not _is_left(skeleton, end[1]))


def _is_left(skeleton: Skeleton, bone: int) -> bool:
    """`lfemur` has a mirror image, `lowerback` has none."""
    name = skeleton.bones[bone].name
    return name.startswith("l") and any(other.name == f"r{name[1:]}" for other in skeleton.bones)


def _body(panel: Axes, points: np.ndarray, colours: tuple[str, str], skeleton: Skeleton) -> LineCollection:
    sides = [colours[_is_left(skeleton, end)] for _, end in _bones(skeleton)]
    body = LineCollection([], colors=sides, linewidths=3.5, capstyle="round")
    panel.add_collection(body)
    ground, height = points[..., 1].min(), np.ptp(points[..., 1])
    panel.axhline(ground, color=figures.GREY, linewidth=0.8, zorder=0)
    panel.set_ylim(ground - 0.04 * height, ground + 1.06 * height)
    panel.set_aspect("equal", adjustable="box")
    panel.xaxis.set_major_locator(MultipleLocator(0.5))
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    panel.set_xlabel("along the walk [m]")
    return body


def _picture(figure: Figure, earlier: Sequence[Image.Image]) -> Image.Image:
    """The figure as it stands, in the palette of the first picture: a GIF of one palette is small and does not
    flicker."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # the first picture has found the layout, and it must not move
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    if earlier:
        return picture.quantize(palette=earlier[0], dither=Image.Dither.NONE)
    return picture.quantize(colors=48)
