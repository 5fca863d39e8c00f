"""Acclaim motion capture: a skeleton (.asf), its motion (.amc), and the positions that follow from both.

Convention (M. Schafer, Acclaim 1994; J. Lander, "Working with Motion Capture File Formats", 1998). A bone's `direction`
is global in the rest pose. A bone rotates about its own axes, which the matrix C of its `axis` angles maps to the
world: with M the rotation by the frame's angles, the bone's orientation is that of its parent times C M C^-1. The
letters behind `axis` give the order of both: XYZ turns about x first, R = Rz Ry Rx for column vectors. `dof` (`order`
of the root) gives the order of the numbers in the .amc.

Angles are in degrees here, whatever unit the files have; lengths are in the unit of the .asf.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftwork.files import aside
from pipeline.sequence import UnreadableError

ROTATIONS = ("rx", "ry", "rz")
TRANSLATIONS = ("tx", "ty", "tz")
Array = NDArray[np.float64]


class Bone(NamedTuple):
    """A bone, or the root, which comes first and has no parent."""

    name: str
    parent: str
    dof: tuple[str, ...]
    """Channels (degrees of freedom), `tx` to `rz`, in the order of the .amc."""
    order: str
    """The letters x, y and z in the order of rotation."""
    axes: Array
    """[3, 3] matrix C, which maps the bone's own axes to the world."""
    offset: Array
    """[3] vector from the parent's end to the bone's own end, in the rest pose."""


class Skeleton(NamedTuple):
    bones: tuple[Bone, ...]
    """Root first, then in the order of the .asf; parents need not precede their children."""
    length: float
    """Unit of length of the .asf. In CMU's files it is 0.45: a length divided by it is in inches."""
    radians: bool
    """Whether angles of the .asf, and of an .amc that names no unit, are in radians."""

    @property
    def channels(self) -> tuple[tuple[str, str], ...]:
        """Return (bone, dof) of each number of a frame."""
        return tuple((bone.name, dof) for bone in self.bones for dof in bone.dof)


class Motion(NamedTuple):
    first: int
    """Number of the first frame. It is above 1 in files that were cut at their start."""
    values: Array
    """[T, C] values of the channels, in the order of the skeleton."""


def parse_asf(text: str) -> Skeleton:
    """Parse the skeleton of an .asf file. Raises `UnreadableError` with the reason."""
    sections = _sections(text)
    units = {row[0].lower(): row[1:] for row in sections["units"]}
    if units.get("angle") not in (["deg"], ["rad"]):
        raise UnreadableError("skeleton: :units has no 'angle deg' or 'angle rad'")
    radians = units["angle"] == ["rad"]
    (length,) = _numbers(units.get("length", []), 1, "skeleton: length of :units")
    root = {row[0].lower(): row[1:] for row in sections["root"]}
    blocks = list(_blocks(sections["bonedata"]))
    names = ["root", *((block.get("name") or ["(no name)"])[0] for block in blocks)]
    for name in names:
        if names.count(name) > 1:
            raise UnreadableError(f"skeleton: bone '{name}' occurs twice")
    parents = _parents(sections["hierarchy"], names)
    bones = [_root(root, radians)]
    bones += [_bone(name, parents[name], block, radians) for name, block in zip(names[1:], blocks, strict=True)]
    return Skeleton(tuple(bones), length, radians)


def parse_amc(text: str, skeleton: Skeleton) -> Motion:
    """Parse the motion of an .amc file for its skeleton. Raises `UnreadableError` with the reason."""
    radians, first, frames = skeleton.radians, 1, list[dict[str, list[float]]]()
    sizes = {bone.name: len(bone.dof) for bone in skeleton.bones}
    for line in text.splitlines():
        head, *tokens = line.split("#")[0].split() or [""]
        number = first + len(frames)  # number of the next frame
        if head.lower() in (":degrees", ":radians"):
            radians = head.lower() == ":radians"
        elif not head or head.startswith(":"):
            continue
        elif head.isdecimal() and not tokens and len(head) < 10:
            if not frames:
                first = int(head)
            elif int(head) != number:
                raise UnreadableError(f"frame {head} follows frame {number - 1}")
            else:
                _complete(frames[-1], sizes, f"frame {number - 1}:")
            frames.append({})
        elif not frames:
            raise UnreadableError(f"'{head[:40]}' stands before the first frame number")
        else:
            _take(frames[-1], head, tokens, sizes, f"frame {number - 1}: joint '{head[:40]}'")
    if not frames:
        raise UnreadableError("no frames")
    _complete(frames[-1], sizes, f"frame {first + len(frames) - 1}, the last, is cut short:")
    values = np.array([[number for name in sizes for number in frame.get(name, ())] for frame in frames])
    if radians:
        turning = [dof in ROTATIONS for _, dof in skeleton.channels]
        values[:, turning] = np.degrees(values[:, turning])
    return Motion(first, values)


def write_amc(path: Path, skeleton: Skeleton, motion: Motion) -> None:
    """Write an .amc file with nine significant digits.

    Any float32, and any number that was read from a file of six digits, reads back the same."""
    lines = [":FULLY-SPECIFIED", ":DEGREES"]
    for number, frame in enumerate(motion.values.tolist(), motion.first):
        lines.append(str(number))
        rest = iter(frame)
        for bone in skeleton.bones:
            if bone.dof:
                lines.append(" ".join([bone.name, *(f"{next(rest):.9g}" for _ in bone.dof)]))
    with aside(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


def positions(skeleton: Skeleton, values: Array) -> Array:
    """Return the positions [T, J, 3] of the root and of each bone's end, in the order of `skeleton.bones`.

    `values` [T, C] are those of `Motion`; lengths are in the .asf's unit.
    """
    T, J = len(values), len(skeleton.bones)
    placed, turned = np.empty((T, J, 3)), np.empty((T, J, 3, 3))
    index = {bone.name: j for j, bone in enumerate(skeleton.bones)}
    column = {channel: c for c, channel in enumerate(skeleton.channels)}
    for j in sorted(range(J), key=lambda j: _depth(skeleton, j, index)):
        bone = skeleton.bones[j]
        angles = {dof[1]: values[:, column[bone.name, dof]] for dof in bone.dof if dof in ROTATIONS}
        own = bone.axes @ _turn(angles, bone.order, T) @ bone.axes.T
        if bone.parent:
            parent = index[bone.parent]
            turned[:, j] = turned[:, parent] @ own
            placed[:, j] = placed[:, parent] + turned[:, j] @ bone.offset
        else:
            moves = [column.get((bone.name, dof)) for dof in TRANSLATIONS]
            shifts = [np.zeros(T) if c is None else values[:, c] for c in moves]
            turned[:, j], placed[:, j] = own, bone.offset + np.stack(shifts, axis=1)
    return placed


def _depth(skeleton: Skeleton, j: int, index: dict[str, int]) -> int:
    parent = skeleton.bones[j].parent
    return 1 + _depth(skeleton, index[parent], index) if parent else 0


def _turn(angles: dict[str, Array], order: str, count: int) -> Array:
    """Return the rotations [T, 3, 3] by `angles` [T] in degrees about x, y, z, applied in the order of `order`."""
    matrix = np.broadcast_to(np.eye(3), (count, 3, 3))
    for letter in order:
        if letter in angles:
            i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[letter]
            radians = np.radians(angles[letter])
            one = np.broadcast_to(np.eye(3), (count, 3, 3)).copy()
            one[:, i, i] = one[:, j, j] = np.cos(radians)
            one[:, j, i] = np.sin(radians)
            one[:, i, j] = -one[:, j, i]
            matrix = one @ matrix
    return matrix


def _sections(text: str) -> dict[str, list[list[str]]]:
    """Map each section's keyword to the words of its lines."""
    sections: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words and words[0].startswith(":"):
            rows = sections.setdefault(words[0][1:].lower(), [])
        elif words:
            rows.append(words)
    for name in ("units", "root", "bonedata", "hierarchy"):
        if name not in sections:
            raise UnreadableError(f"skeleton: no section :{name}; not an .asf file, or cut short")
    return sections


def _blocks(rows: list[list[str]]) -> Iterator[dict[str, list[str]]]:
    """Yield a map from keyword to words for each `begin ... end` block of a section."""
    block: dict[str, list[str]] | None = None
    for head, *words in rows:
        if head == "begin":
            block = {}
        elif block is None:
            raise UnreadableError(f"skeleton: '{head[:40]}' is outside of begin and end")
        elif head == "end":
            yield block
            block = None
        else:
            block[head.lower()] = words
    if block is not None:
        raise UnreadableError("skeleton: a begin without its end; the file may be cut short")


def _parents(rows: list[list[str]], names: list[str]) -> dict[str, str]:
    """Map each bone to its parent, and check that the bones are a tree below the root."""
    parents: dict[str, str] = {}
    for parent, *children in rows:
        for name in children:
            for known in (parent, name):
                if known not in names:
                    raise UnreadableError(f"skeleton: the hierarchy names '{known[:40]}', which is not a bone")
            if name == "root" or name in parents:
                raise UnreadableError(f"skeleton: the hierarchy gives '{name}' two parents")
            parents[name] = parent
    reached, edge = {"root"}, ["root"]
    while edge:
        at = edge.pop()
        children = [name for name, parent in parents.items() if parent == at]
        reached.update(children)
        edge += children
    for name in names:
        if name not in reached:
            raise UnreadableError(f"skeleton: the hierarchy does not lead from the root to '{name}'")
    return parents


def _root(block: dict[str, list[str]], radians: bool) -> Bone:
    axes, order = _axes([*block.get("orientation", []), *block.get("axis", [])], radians, "root")
    dof = _dof(block.get("order", []), TRANSLATIONS + ROTATIONS, "root")
    return Bone("root", "", dof, order, axes, _numbers(block.get("position", []), 3, "skeleton: position of the root"))


def _bone(name: str, parent: str, block: dict[str, list[str]], radians: bool) -> Bone:
    axes, order = _axes(block.get("axis", []), radians, f"bone '{name}'")
    dof = _dof(block.get("dof", []), ROTATIONS, f"bone '{name}'")
    direction = _numbers(block.get("direction", []), 3, f"skeleton: direction of bone '{name}'")
    (length,) = _numbers(block.get("length", []), 1, f"skeleton: length of bone '{name}'")
    if length < 0 or abs(math.hypot(*direction) - 1) > 1e-3:
        raise UnreadableError(f"skeleton: bone '{name}' has a negative length or a direction that is not a unit vector")
    return Bone(name, parent, dof, order, axes, length * direction)


def _axes(words: list[str], radians: bool, whose: str) -> tuple[Array, str]:
    """Parse `angle angle angle XYZ` to (C, order)."""
    order = words[-1].lower() if words else ""
    if sorted(order) != ["x", "y", "z"]:
        raise UnreadableError(f"skeleton: {whose} has no axis with an order such as XYZ")
    angles = _numbers(words[:-1], 3, f"skeleton: axis of {whose}")
    angles = np.degrees(angles) if radians else angles
    return _turn({letter: angles[i : i + 1] for i, letter in enumerate("xyz")}, order, 1)[0], order


def _dof(words: list[str], allowed: tuple[str, ...], whose: str) -> tuple[str, ...]:
    dof = tuple(word.lower() for word in words)
    if not set(dof) <= set(allowed) or len(set(dof)) < len(dof):
        raise UnreadableError(f"skeleton: {whose} moves by '{' '.join(dof)[:40]}'; known are {' '.join(allowed)}, once")
    return dof


def _take(frame: dict[str, list[float]], name: str, words: list[str], sizes: dict[str, int], where: str) -> None:
    """Add the values of a joint's line to its frame."""
    if name not in sizes:
        raise UnreadableError(f"{where} is not in the skeleton")
    if name in frame:
        raise UnreadableError(f"{where} occurs twice")
    frame[name] = _numbers(words, sizes[name], where).tolist()


def _complete(frame: dict[str, list[float]], sizes: dict[str, int], where: str) -> None:
    missing = [name for name, size in sizes.items() if size and name not in frame]
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise UnreadableError(f"{where} joint '{missing[0]}'{more} missing")


def _numbers(words: list[str], count: int, what: str) -> Array:
    if len(words) != count:
        raise UnreadableError(f"{what} has {len(words)} values, not {count}")
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise UnreadableError(f"{what}: '{' '.join(words)[:40]}' is not all numbers") from None
    if not np.isfinite(values).all():
        raise UnreadableError(f"{what}: '{' '.join(words)[:40]}' is not all finite")
    return values
