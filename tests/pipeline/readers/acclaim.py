"""Skeletons and motions as text: CMU's channels on bones of invented lengths."""

from collections.abc import Sequence

import numpy as np

from pipeline.readers.mocap import DROPPED, KEPT

UNITS = ":units\n  mass 1.0\n  length 0.45\n  angle deg\n"
ROOT = ":root\n  order TX TY TZ RX RY RZ\n  axis XYZ\n  position 0 0 0\n  orientation 0 0 0\n"


def dofs() -> dict[str, list[str]]:
    """Map each bone to its channels, in an order that differs from CMU's."""
    found: dict[str, list[str]] = {"root": [], "hip": []}
    for bone, dof in KEPT + DROPPED:
        found.setdefault(bone, []).append(dof)
    return found


def bone(
    name: str, dof: Sequence[str] = (), direction: str = "1 0 0", length: float = 1, axis: str = "0 0 0 XYZ"
) -> str:
    moves = f"    dof {' '.join(dof)}\n    limits {' '.join(['(-9 9)'] * len(dof))}\n" if dof else ""
    said = f"    name {name}\n    id 1\n    direction {direction}\n    length {length}\n    axis {axis}\n"
    return f"  begin\n{said}{moves}  end\n"


def skeleton(bones: str, hierarchy: str, root: str = ROOT, units: str = UNITS) -> str:
    return f"# made up\n:version 1.10\n{units}{root}:bonedata\n{bones}:hierarchy\n  begin\n{hierarchy}\n  end\n"


def cmu() -> str:
    """Return a skeleton of CMU's channels, in which all bones but the root hang on one that does not move."""
    names = [name for name in dofs() if name not in ("root", "hip")]
    bones = "".join(bone(name, dof) for name, dof in dofs().items() if name != "root")
    return skeleton(bones, f"root hip\nhip {' '.join(names)}")


def walk(count: int, first: int = 1, seed: int = 0) -> str:
    """Return an .amc of `count` frames of noise."""
    random, lines = np.random.default_rng(seed), ["# made up", ":FULLY-SPECIFIED", ":DEGREES"]
    for number in range(first, first + count):
        lines.append(str(number))
        for name, dof in dofs().items():
            if dof:
                lines.append(" ".join([name, *(f"{value:.6g}" for value in random.normal(0, 20, len(dof)))]))
    return "\r\n".join(lines) + "\r\n"
