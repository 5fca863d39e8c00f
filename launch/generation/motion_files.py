"""Write motions of one skeleton as motion capture files, and return them as walks for animations."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.files import aside
from launch.figures.skeleton import Walk
from pipeline.readers.mocap import UNIT, restore
from pipeline.readers.skeleton import Skeleton, positions, write_amc

RATE = 120.0
"""Frames per second of CMU's cameras."""
_METRES = 0.0254 / UNIT
"""Metres per unit of length of CMU's skeletons."""


class Take(NamedTuple):
    file: Path
    """File to write, in the .amc format."""
    label: str
    frames: NDArray[np.float32]
    """[T, D] frames of the motion."""
    finer: float = 1.0
    """Number of frames of the motion per frame of the trial."""


def write(asf: Path, about: dict[str, Any], takes: Iterable[Take]) -> tuple[Skeleton, list[Walk]]:
    """Write each of `takes` (at least one) of the trial that `about` describes, and their skeleton. Return the skeleton
    and a walk for each take."""
    walks = []
    for take in takes:
        skeleton, motion = restore(take.frames, about, take.finer)
        write_amc(take.file, skeleton, motion)
        walks.append(Walk(take.label, _METRES * positions(skeleton, motion.values)))
    with aside(asf) as temporary:
        temporary.write_text(about["skeleton"], encoding="latin-1")
    return skeleton, walks
