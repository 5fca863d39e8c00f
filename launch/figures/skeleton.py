"""Skeletons that walk side by side, as an animated GIF."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from PIL import Image

from driftwork.files import aside
from launch.figures import style
from pipeline.readers.skeleton import Skeleton

PICTURES = 40
"""Number of pictures per second of motion; each is shown for 50 ms, at half speed."""
_TURN = np.radians(25)
"""Angle of the camera from the walker's right towards the front, radians."""
_COLOURS = ((style.INK, "#A9A9A9"), (style.BLUE, "#8CC4E8"))
"""Colours of each walk: trunk and right half of the body, and the left half, which is farther away."""


class Walk(NamedTuple):
    name: str
    joints: np.ndarray
    """[T, J, 3] positions, metres, y upwards."""


@rc_context(style.STYLE)
def animate(path: Path, walks: Sequence[Walk], skeleton: Skeleton, rate: float, title: str) -> None:
    """Write an animation of one walk, or of two with equally many frames, each in its own panel.

    The camera follows the root along the ground, and up or down if the body would leave the picture: a forecast whose
    vertical steps do not add up to 0 sinks or rises.

    Args:
        rate: frames per second.
    """
    figure = style.page(7.2, 4.0, title)
    panels = list(figure.subplots(1, len(walks), squeeze=False)[0])
    stride = max(1, round(rate / PICTURES))
    points = [_seen(walk.joints, along=walks[0].joints) for walk in walks]
    bones = _bones(skeleton)
    bodies = [_body(panel, colours, skeleton) for panel, colours in zip(panels, _COLOURS[-len(walks) :], strict=True)]
    ground, tall, wide = _size(points)
    for panel in panels:
        panel.axhline(ground, color=style.GREY, linewidth=0.8, zorder=0)
        panel.xaxis.set_major_locator(MultipleLocator(0.5 * 10.0 ** round(np.log10(tall / 2))))
    pictures = []
    for frame in range(0, len(points[0]), stride):
        for panel, body, at, walk in zip(panels, bodies, points, walks, strict=True):
            body.set_segments(list(at[frame][bones]))
            panel.set_xlim(at[frame, 0, 0] - wide, at[frame, 0, 0] + wide)
            foot, head = at[frame, :, 1].min(), at[frame, :, 1].max()
            low = np.clip(ground, head - 1.05 * tall, foot + 0.05 * tall)
            panel.set_ylim(low - 0.07 * tall, low + 1.07 * tall)
            panel.set_title(f"{walk.name}, {frame / rate:.2f} s", loc="left")
        pictures.append(_picture(figure))
    with aside(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], loop=0, optimize=False,
            duration=round(2000 * stride / rate, -1),
        )  # fmt: skip


def _seen(joints: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Project to the screen, [T, J, 2], for a camera beside the path of the walk `along`, whose root comes first."""
    x, _, z = along[-1, 0] - along[0, 0]
    angle = np.arctan2(z, x) + _TURN
    right = np.array([np.cos(angle), 0.0, np.sin(angle)])
    return np.stack([(joints - along[0, 0]) @ right, joints[..., 1]], -1)


def _size(points: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Return the height of the ground at the start of the first walk [T, J, 2], the largest height of a body, and its
    largest distance from the root along the ground."""
    tall = max(float(np.ptp(at[..., 1], axis=1).max()) for at in points)
    reach = max(float(np.abs(at[..., 0] - at[:, :1, 0]).max()) for at in points)
    return float(points[0][0, :, 1].min()), tall, 1.1 * max(reach, tall / 2)


def _bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Return the joints at the ends of each bone; the left half comes first, to be drawn behind the rest."""
    index = {bone.name: j for j, bone in enumerate(skeleton.bones)}
    ends = [(index[bone.parent], j) for j, bone in enumerate(skeleton.bones) if bone.parent]
    return sorted(ends, key=lambda end: not _is_left(skeleton, end[1]))


def _is_left(skeleton: Skeleton, bone: int) -> bool:
    """Return whether a bone is of the left half: `lfemur` has a mirror image, `lowerback` has none."""
    name = skeleton.bones[bone].name
    return name.startswith("l") and any(other.name == f"r{name[1:]}" for other in skeleton.bones)


def _body(panel: Axes, colours: tuple[str, str], skeleton: Skeleton) -> LineCollection:
    sides = [colours[_is_left(skeleton, end)] for _, end in _bones(skeleton)]
    body = LineCollection([], colors=sides, linewidths=3.5, capstyle="round")
    panel.add_collection(body)
    panel.set_aspect("equal", adjustable="box")
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    panel.set_xlabel("along the walk [m]")
    return body


def _picture(figure: Figure) -> Image.Image:
    """Return a picture of the current figure, in the colours of `_palette`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # the first picture has fixed the layout, which must not move
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    return picture.quantize(palette=_palette(), dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """Return a palette of all colours, in steps from white for smooth edges. One palette keeps a GIF small and free of
    flicker."""
    steps = np.linspace(0, 1, 9)[:, None]
    drawn = [style.INK, style.GREY, *(colour for pair in _COLOURS for colour in pair)]
    ramps = [1 + steps * (np.array(to_rgb(colour)) - 1) for colour in drawn]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * np.concatenate(ramps)).astype(np.uint8).tobytes())
    return palette
