import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.readers.skeleton import Motion, Skeleton, parse_amc, parse_asf, positions, write_amc
from pipeline.sequence import UnreadableError
from tests.pipeline.readers.acclaim import ROOT, UNITS, bone, cmu, skeleton, walk
from tests.places import SAMPLES

ARM = bone("upper", ["rz", "rx"], length=2, axis="0 0 90 XYZ") + bone("lower", ["ry"], direction="0 1 0", length=3)
TREE = "root upper\nupper lower"
ROUNDING = 32 * 3 * np.finfo(np.float64).eps
"""Bound on the rounding error of a position of up to 3: a quarter turn is rounded, and two bones of up to four turns
each are products of matrices with entries of at most 1, 24 sums of three."""


@pytest.fixture(scope="module")
def real() -> tuple[Skeleton, Path]:
    path = SAMPLES / "mocap" / "35" / "35.asf"
    if not path.exists():
        pytest.skip(f"no real motion in {SAMPLES / 'mocap'}; set DRIFTWORK_SAMPLES")
    return parse_asf(path.read_text()), path.parent


def joints(text: str) -> list[tuple[str, tuple[float, ...]]]:
    """Return (joint, numbers) of every line of an .amc, sorted."""
    lines = [line.split() for line in text.splitlines() if " " in line and line[0] not in ":#"]
    return sorted((name, tuple(map(float, numbers))) for name, *numbers in lines)


def pose(text: str, **channels: float) -> np.ndarray:
    """Return positions [J, 3] of one frame; channels are named bone_dof, and others are 0."""
    made = parse_asf(text)
    frame = [[channels.pop("_".join(channel), 0.0) for channel in made.channels]]
    assert not channels
    return positions(made, np.array(frame))[0]


def test_rest_pose_follows_directions_and_root():
    moved = pose(skeleton(ARM, TREE), root_tx=1, root_ty=2, root_tz=3)
    np.testing.assert_allclose(moved, [[1, 2, 3], [3, 2, 3], [3, 5, 3]])


def test_bone_rotates_with_its_children():
    # the upper arm's own x axis is the world's y: turning by 90 takes (2, 0, 0) to (0, 0, -2) and leaves the lower arm
    bent = pose(skeleton(ARM, TREE), upper_rx=90)
    np.testing.assert_allclose(bent, [[0, 0, 0], [0, 0, -2], [0, 3, -2]], atol=ROUNDING)
    # its own z is the world's: (2, 0, 0) to (0, 2, 0), and the lower arm from (0, 3, 0) to (-3, 0, 0)
    bent = pose(skeleton(ARM, TREE), upper_rz=90)
    np.testing.assert_allclose(bent, [[0, 0, 0], [0, 2, 0], [-3, 2, 0]], atol=ROUNDING)


def test_axis_letters_give_the_order_of_rotation():
    """`dof` gives only the order of the numbers."""
    leg = bone("leg", ["rz", "rx"], direction="0 1 0")
    # about x first: (0, 1, 0) to (0, 0, 1), which z leaves; about z first: to (-1, 0, 0), which x leaves
    np.testing.assert_allclose(pose(skeleton(leg, "root leg"), leg_rx=90, leg_rz=90)[1], [0, 0, 1], atol=ROUNDING)
    leg = leg.replace("XYZ", "ZYX")
    np.testing.assert_allclose(pose(skeleton(leg, "root leg"), leg_rx=90, leg_rz=90)[1], [-1, 0, 0], atol=ROUNDING)
    root = ROOT.replace("axis XYZ", "axis ZYX")
    still = skeleton(bone("leg", direction="0 1 0"), "root leg", root)
    np.testing.assert_allclose(pose(still, root_rx=90, root_rz=90)[1], [-1, 0, 0], atol=ROUNDING)


def test_three_axes_match_explicit_matrices():
    a, b, c = np.radians([20, -35, 50])
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    axes = turn_z @ turn_y @ turn_x
    text = skeleton(bone("leg", ["rx", "ry", "rz"], direction="0 0 1", axis="20 -35 50 XYZ"), "root leg")
    expected = axes @ (turn_z @ turn_y @ turn_x) @ axes.T @ [0, 0, 1]
    np.testing.assert_allclose(pose(text, leg_rx=20, leg_ry=-35, leg_rz=50)[1], expected, atol=ROUNDING)


def test_order_of_bones_does_not_matter():
    upper, lower = ARM.split("  begin\n")[1:]
    turned = skeleton(f"  begin\n{lower}  begin\n{upper}", TREE)
    angles = {"upper_rx": 40, "lower_ry": 20, "upper_rz": -70}
    np.testing.assert_allclose(pose(turned, **angles)[[0, 2, 1]], pose(skeleton(ARM, TREE), **angles))


def test_radians_are_converted_to_degrees():
    radians = UNITS.replace("deg", "rad")
    made = parse_asf(skeleton(bone("leg", ["rx"], axis=f"0 0 {np.pi / 2} XYZ"), "root leg", units=radians))
    degrees = parse_asf(skeleton(bone("leg", ["rx"], axis="0 0 90 XYZ"), "root leg"))
    np.testing.assert_allclose(made.bones[1].axes, degrees.bones[1].axes, atol=ROUNDING)
    frame = f"1\nroot 1 2 3 0 0 0\nleg {np.pi / 3}\n"
    for text in (frame, ":RADIANS\n" + frame):
        np.testing.assert_allclose(parse_amc(text, made).values, [[1, 2, 3, 0, 0, 0, 60]])
    assert parse_amc(":DEGREES\n1\nroot 1 2 3 0 0 0\nleg 60\n", made).values[0, 6] == 60


BAD_SKELETONS = {
    "no section :hierarchy": skeleton(ARM, TREE).split(":hierarchy")[0],
    "no section :units; not an .asf": "hello\n",
    "has no 'angle deg'": skeleton(ARM, TREE, units=UNITS.replace("deg", "turns")),
    "length of :units has 0 values": skeleton(ARM, TREE, units=":units\n angle deg\n"),
    "begin without its end": skeleton(ARM, TREE).replace("  end\n:hierarchy", ":hierarchy"),
    "'name' is outside": skeleton(ARM, TREE).replace("  begin\n    name upper", "    name upper"),
    "bone 'upper' occurs twice": skeleton(ARM + bone("upper"), TREE),
    "bone 'root' occurs twice": skeleton(ARM + bone("root"), TREE),
    "names 'tail', which is not a bone": skeleton(ARM, TREE + "\nupper tail"),
    "gives 'lower' two parents": skeleton(ARM, TREE + "\nroot lower"),
    "gives 'root' two parents": skeleton(ARM, TREE + "\nlower root"),
    "does not lead from the root to 'lower'": skeleton(ARM, "root upper"),
    "does not lead from the root to 'upper'": skeleton(ARM, "upper lower\nlower upper"),
    "order such as XYZ": skeleton(bone("leg", axis="0 0 0 XXZ"), "root leg"),
    "axis of bone 'leg' has 2 values, not 3": skeleton(bone("leg", axis="0 0 XYZ"), "root leg"),
    "is not all finite": skeleton(bone("leg", axis="0 nan 0 XYZ"), "root leg"),
    "is not all numbers": skeleton(bone("leg", direction="1 0 o"), "root leg"),
    "not a unit vector": skeleton(bone("leg", direction="1 1 0"), "root leg"),
    "negative length": skeleton(bone("leg", length=-1), "root leg"),
    "moves by 'tx'": skeleton(bone("leg", ["tx"]), "root leg"),
    "moves by 'rx rx'": skeleton(bone("leg", ["rx", "rx"]), "root leg"),
    "position of the root has 0 values": skeleton(ARM, TREE, ROOT.replace("position 0 0 0", "")),
}


@pytest.mark.parametrize("reason", BAD_SKELETONS)
def test_bad_skeleton_gives_its_reason(reason):
    with pytest.raises(UnreadableError, match=reason) as caught:
        parse_asf(BAD_SKELETONS[reason])
    assert str(caught.value).startswith("skeleton: ")
    assert "\n" not in str(caught.value)


ONE = "7\nroot 1 2 3 4 5 6\nupper 7 8\nlower 9\n"
TWO = "8\nlower 9\nupper 7 8\nroot 1 2 3 4 5 6\n"
BAD_MOTIONS = {
    "no frames": "#!OML\n:DEGREES\n",
    "'root' stands before the first frame number": ONE.removeprefix("7\n"),
    "frame 9 follows frame 7": ONE + TWO.replace("8\n", "9\n", 1),
    "frame 7 follows frame 7": ONE + ONE,
    "frame 7: joint 'lower' is missing": ONE.removesuffix("lower 9\n") + TWO,
    "frame 8, the last, is cut short: joint 'root' is missing": ONE + TWO.split("root")[0],
    "frame 8, the last, is cut short: joint 'root' and 2 more are missing": ONE + "8\n",
    "frame 8: joint 'root' has 4 values, not 6": ONE + TWO.removesuffix(" 5 6\n"),
    "frame 7: joint 'upper' has 3 values, not 2": ONE.replace("upper", "upper 1") + TWO,
    "frame 7: joint 'tail' is not in the skeleton": ONE + "tail 1\n" + TWO,
    "frame 7: joint 'lower' occurs twice": ONE + "lower 9\n" + TWO,
    "frame 8: joint 'lower': 'nan' is not all finite": ONE + TWO.replace("lower 9", "lower nan"),
    "frame 8: joint 'lower': 'inf' is not all finite": ONE + TWO.replace("lower 9", "lower inf"),
    "frame 7: joint 'lower': '9,5' is not all numbers": ONE.replace("lower 9", "lower 9,5") + TWO,
}


@pytest.mark.parametrize("reason", BAD_MOTIONS)
def test_bad_motion_names_the_frame(reason):
    with pytest.raises(UnreadableError) as caught:
        parse_amc(BAD_MOTIONS[reason], parse_asf(skeleton(ARM, TREE)))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_first_frame_and_joint_order_are_read():
    motion = parse_amc(ONE + TWO, parse_asf(skeleton(ARM, TREE)))
    assert motion.first == 7
    assert motion.values.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 2


def test_random_bytes_raise_only_unreadable_error():
    random, made, asf, amc = np.random.default_rng(0), parse_asf(cmu()), cmu(), walk(2)
    for text, parse in [(asf, parse_asf), (amc, lambda text: parse_amc(text, made))] * 150:
        broken = list(text)
        for position in random.integers(0, len(text), 3):
            broken[position] = chr(random.integers(256))
        with suppress(UnreadableError):
            parse("".join(broken))


def test_written_motion_reads_back_equal(tmp_path):
    made = parse_asf(cmu())
    motion = parse_amc(walk(20, first=12), made)
    write_amc(tmp_path / "a.amc", made, motion)
    again = parse_amc((tmp_path / "a.amc").read_text(), made)
    assert again.first == 12
    assert np.array_equal(again.values, motion.values)
    single = Motion(1, np.random.default_rng(0).normal(0, 50, motion.values.shape).astype(np.float32).astype(float))
    write_amc(tmp_path / "a.amc", made, single)
    again = parse_amc((tmp_path / "a.amc").read_text(), made)
    assert np.array_equal(again.values.astype(np.float32), single.values)
    assert os.listdir(tmp_path) == ["a.amc"]


def test_real_walk_stands_on_the_floor(real, tmp_path):
    made, folder = real
    text = (folder / "35_01.amc").read_text()
    motion = parse_amc(text, made)
    assert motion.values.shape == (358, 62)
    placed = positions(made, motion.values) / made.length * 0.0254  # metres
    index = {bone.name: j for j, bone in enumerate(made.bones)}
    for bone_ in made.bones[1:]:
        lengths = np.linalg.norm(placed[:, index[bone_.name]] - placed[:, index[bone_.parent]], axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(bone_.offset) / made.length * 0.0254, rtol=1e-12)
    lowest = np.minimum(placed[:, index["lfoot"], 1], placed[:, index["rfoot"], 1])
    assert 0 < lowest.min() < lowest.max() < 0.1, "at any time one foot is on the floor"
    assert 1.5 < placed[:, index["head"], 1].min() < placed[:, index["head"], 1].max() < 1.8
    write_amc(tmp_path / "a.amc", made, motion)
    again = parse_amc((tmp_path / "a.amc").read_text(), made)
    assert np.array_equal(again.values, motion.values)
    assert joints((tmp_path / "a.amc").read_text()) == joints(text)
