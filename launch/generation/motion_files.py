"""Motions of one skeleton in the form that motion capture comes in, and as walks to look at."""

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
"""Frames a second of CMU's cameras."""
_METRES = 0.0254 / UNIT
"""A unit of CMU's skeletons."""


class Take(NamedTuple):
    file: Path
    """.amc"""
    label: str
    frames: NDArray[np.float32]
    """[T, D]"""
    finer: float = 1.0
    """Of these frames pass in one of the trial's."""


def write(asf: Path, about: dict[str, Any], takes: Iterable[Take]) -> tuple[Skeleton, list[Walk]]:
    """Write each of `takes`, at least one, of the trial that is described by `about`, and the skeleton that they go
    with; returns it, and how it walks in each."""
    walks = []
    for take in takes:
        skeleton, motion = restore(take.frames, about, take.finer)
        write_amc(take.file, skeleton, motion)
        walks.append(Walk(take.label, _METRES * positions(skeleton, motion.values)))
    with aside(asf) as temporary:
        temporary.write_text(about["skeleton"], encoding="latin-1")
    return skeleton, walks
