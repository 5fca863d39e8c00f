"""Walks of the CMU motion capture database, prepared as in the published experiments on subject 35, and converted back
to motions.

50 of a frame's 62 channels are kept; hands, fingers, thumbs and toes are dropped. The three translations of the root
are replaced by the steps to the next frame. A trial is its first 300 frames at an interval of 0.1, the time unit of the
published models (the cameras ran at 120 frames per second). A trial that was cut at its start keeps its times (frame n
is at 0.1 (n - 1)), and a short trial keeps its length.
"""

import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftwork.errors import DriftworkError
from driftwork.registry import Named
from pipeline.readers.raw_files import names_below, read_raw
from pipeline.readers.skeleton import Motion, Skeleton, parse_amc, parse_asf
from pipeline.sequence import DataSpec, Item, Sequence, Split, UnreadableError, folder

INTERVAL = 0.1
UNIT = 0.45
"""Unit of length of CMU's skeletons: 1/0.45 inch, 5.644 cm."""
MAX_BYTES = 64 * 2**20
TRIALS: dict[Split, range] = {"train": range(1, 17), "val": range(28, 31), "test": range(31, 35)}
ARRAYS: dict[Split, str] = {"train": "Xtr", "val": "Xval", "test": "Xtest"}
PUBLISHED_MEAN = 1e-5
"""Mean of every channel of a trial in the published arrays."""
KEPT = tuple(
    (bone, dof)
    for bone, dofs in {
        "root": "tx ty tz rx ry rz", "lowerback": "rx ry rz", "upperback": "rx ry rz", "thorax": "rx ry rz",
        "lowerneck": "rx ry rz", "upperneck": "rx ry rz", "head": "rx ry rz",
        "rclavicle": "ry rz", "rhumerus": "rx ry rz", "rradius": "rx", "rwrist": "ry",
        "lclavicle": "ry rz", "lhumerus": "rx ry rz", "lradius": "rx", "lwrist": "ry",
        "rfemur": "rx ry rz", "rtibia": "rx", "rfoot": "rx rz", "lfemur": "rx ry rz", "ltibia": "rx", "lfoot": "rx rz",
    }.items()
    for dof in dofs.split()
)  # fmt: skip
"""Pairs (bone, degree of freedom) of the 50 channels, in the published order, which is that of CMU's .amc files."""
DROPPED = tuple(
    (f"{side}{bone}", dof)
    for side in "rl"
    for bone, dofs in {"hand": "rx rz", "fingers": "rx", "thumb": "rx rz", "toes": "rx"}.items()
    for dof in dofs.split()
)


class MocapConfig(Named):
    name: Literal["mocap"] = "mocap"
    """Data set: walks of the CMU motion capture database."""
    protocol: Literal["published", "honest"] = "published"
    """Centring of the trials. `published` subtracts from each trial its own mean, which includes the future that a
    model is to forecast. `honest` subtracts nothing here; a model subtracts the mean of the training split."""
    frames: int = Field(300, ge=2, le=100_000)
    """Number of frames of a trial that are used, counted from its first."""


@dataclass(frozen=True)
class Mocap:
    """Reader of a folder of NN.asf with NN_MM.amc, or of the ODE2VAE authors' mocap35.mat. Values are float32 [T, 50].

    Trials 01-16 are train, 28-30 validation and 31-34 test, by their number MM; others are not part of the experiment
    and go to the quarantine. The arrays Xtr, Xval and Xtest of a .mat file are its splits.
    """

    config: MocapConfig

    def spec(self) -> DataSpec:
        return DataSpec(
            dim=len(KEPT),
            length=self.config.frames,
            interval=INTERVAL,
            likelihood="gaussian",
            units="joint angles in degrees, root steps in 5.644 cm a frame",
            kind="motion",
        )

    def find(self, source: Path | None) -> list[Item]:
        """Return every .amc below `source`, each with the .asf beside it, or every .mat with one item for each of its
        arrays. `source` itself may be a single .amc or .mat."""
        root = folder(source)
        names = names_below(source, ".amc", ".asf", ".mat")
        if root != source:
            names += sorted(path.name for path in root.iterdir() if path.suffix.lower() == ".asf")
        trials = [name for name in names if name.lower().endswith(".amc")]
        arrays = [name for name in names if name.lower().endswith(".mat")]
        if not trials and not arrays:
            raise DriftworkError(f"source={source}: no .amc or .mat file in it or below it; give another folder")
        if trials and arrays:
            raise DriftworkError(
                f"source={root}: holds {trials[0]} and {arrays[0]}, perhaps the same walks; give a folder of one kind"
            )
        if arrays and self.config.protocol == "honest":
            raise DriftworkError(
                f"protocol=honest: the trials of {arrays[0]} are centred on their own means; give the .amc files"
            )
        if arrays:
            pairs = [(split, name, f"{name}/{array}") for name in arrays for split, array in ARRAYS.items()]
            return [Item(array, group=array, files=(name,), split=split) for split, name, array in pairs]
        skeletons = {name.lower(): name for name in names if name.lower().endswith(".asf")}
        return [_item(name, skeletons) for name in trials]

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        """Read the sequence of a trial, or all sequences of an array of a .mat file."""
        if not item.name.lower().endswith(".amc"):
            return self._read_array(folder(source), item)
        sequence = self._read_trial(folder(source), item)
        if item.split is None:
            raise UnreadableError("not NN_MM.amc with MM in 01-16, 28-30 or 31-34, the trials of the experiment")
        return [sequence]

    def read_file(self, path: Path) -> list[Sequence]:
        """Read a trial with the .asf of its subject, or with the only .asf in its folder."""
        if path.suffix.lower() != ".amc":
            raise UnreadableError("its name does not end in .amc")
        skeletons = {file.name.lower(): file.name for file in path.parent.iterdir() if file.suffix.lower() == ".asf"}
        item = _item(path.name, skeletons)
        if len(item.files) < 2 and len(skeletons) == 1:
            item = item._replace(files=(path.name, *skeletons.values()))
        return [self._read_trial(path.parent, item)]

    def _read_trial(self, root: Path, item: Item) -> Sequence:
        if len(item.files) < 2:
            raise UnreadableError("its subject's .asf is not in the same folder; add it")
        trial, bones = (_text(root / file) for file in item.files)
        skeleton = parse_asf(bones)
        motion = parse_amc(trial, skeleton)
        if len(motion.values) < 2:
            raise UnreadableError("a single frame is not a motion")
        channels, about = features(motion, skeleton, self.config)
        about["skeleton"] = bones
        key = f"{_slug(_group(item.name))}-{hashlib.sha256(os.fsencode(item.name)).hexdigest()[:12]}"
        return _sequence(key, item.group, motion.first, channels, about)

    def _read_array(self, root: Path, item: Item) -> list[Sequence]:
        file, array = item.name.rsplit("/", 1)
        trials = read_mat(root / file, array)
        if trials.shape[1] != self.config.frames:
            raise UnreadableError(f"trials of {trials.shape[1]} frames, not frames={self.config.frames}")
        keys = [f"{_slug(file)}-{array}-{number:02d}" for number in range(len(trials))]
        return [_sequence(key, key, 1, trial, None) for key, trial in zip(keys, trials, strict=True)]


def features(motion: Motion, skeleton: Skeleton, config: MocapConfig) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return the modelled channels [T, 50], and the data with which `restore` inverts them.

    Raises `UnreadableError` if the skeleton is not CMU's.
    """
    kept, dropped = _columns(skeleton)
    channels = motion.values[:, kept]
    start = channels[0, :3].tolist()
    steps = np.diff(channels[:, :3], axis=0)
    channels[:, :3] = np.concatenate([steps, steps[-1:]])
    channels = channels[: config.frames]
    mean = np.zeros(len(KEPT))
    if config.protocol == "published":
        mean = channels.mean(axis=0) - PUBLISHED_MEAN
    rest = motion.values[: config.frames, dropped].mean(axis=0)
    about = {"first_frame": motion.first, "start": start, "mean": mean.tolist(), "rest": rest.tolist()}
    return channels - mean, about


def restore(values: NDArray[np.floating[Any]], about: dict[str, Any], finer: float = 1.0) -> tuple[Skeleton, Motion]:
    """Return the skeleton and the motion of a trial's `values` [T, 50].

    The root starts at the trial's first position, and dropped channels are constant at their mean. `finer` is the
    number of given frames per frame of the trial; the root's steps are still those to the trial's next frame.
    """
    skeleton = parse_asf(about["skeleton"])
    kept, dropped = _columns(skeleton)
    channels = values.astype(np.float64) + np.array(about["mean"])
    steps = np.concatenate([np.array([about["start"]]), channels[:-1, :3] / finer])
    channels[:, :3] = np.cumsum(steps, axis=0)
    frames = np.empty((len(values), len(skeleton.channels)))
    frames[:, kept], frames[:, dropped] = channels, about["rest"]
    return skeleton, Motion(1 + round((about["first_frame"] - 1) * finer), frames)


def read_mat(path: Path, array: str) -> NDArray[np.float64]:
    """Read one array [trials, T, 50] of the authors' file. Raises `UnreadableError` with the reason."""
    from scipy.io import loadmat  # `restore` does not need scipy, which an installation for training may lack

    data = read_raw(path, MAX_BYTES, "motion capture")
    try:
        found = loadmat(io.BytesIO(data), variable_names=[array]).get(array)
    except MemoryError:
        raise  # the guard reports it
    except Exception as error:  # scipy's parser can raise any error
        raise UnreadableError(f"cannot be read as a .mat file: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, np.ndarray):
        raise UnreadableError(f"holds no array {array}")
    if found.ndim != 3 or found.shape[2] != len(KEPT) or found.dtype != np.float64 or 0 in found.shape:
        raise UnreadableError(f"{array} is {found.dtype} {found.shape}, not float64 (trials, frames, {len(KEPT)})")
    return np.ascontiguousarray(found)


def _columns(skeleton: Skeleton) -> tuple[list[int], list[int]]:
    """Return the indices of the kept and of the dropped channels in a frame."""
    column = {channel: index for index, channel in enumerate(skeleton.channels)}
    for bone, dof in KEPT + DROPPED + skeleton.channels:
        if ((bone, dof) in column) != ((bone, dof) in KEPT + DROPPED):
            wrong = "one too many" if (bone, dof) in column else "missing"
            raise UnreadableError(f"skeleton: channel {dof} of '{bone}' is {wrong}; other trials have another skeleton")
    if skeleton.length != UNIT:
        raise UnreadableError(f"skeleton: unit of length {skeleton.length:g}, not CMU's {UNIT}")
    return [column[channel] for channel in KEPT], [column[channel] for channel in DROPPED]


def _trial(name: str) -> tuple[str, int]:
    """Return (subject, number) of a name NN_MM.amc; the number is 0 if the name has another form."""
    stem = PurePosixPath(name).stem
    match = re.fullmatch(r"(.+)_(\d{1,6})", stem)
    return (match[1], int(match[2])) if match else (stem, 0)


def _item(name: str, skeletons: dict[str, str]) -> Item:
    """Return the item of a trial; `skeletons` maps paths in lower case to those of existing files."""
    subject, number = _trial(name)
    skeleton = skeletons.get(str(PurePosixPath(name).with_name(f"{subject}.asf")).lower())
    files = (name,) if skeleton is None else (name, skeleton)
    split = next((split for split, numbers in TRIALS.items() if number in numbers), None)
    return Item(name, _group(name), files, split)


def _group(name: str) -> str:
    """Return the group of a trial, which does not depend on its folder."""
    subject, number = _trial(name)
    return f"{subject}_{number:02d}"


def _text(path: Path) -> str:
    try:
        text = read_raw(path, MAX_BYTES, "motion capture").decode("latin-1")
    except UnreadableError as error:
        raise UnreadableError(f"{path.name}: {error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _sequence(
    key: str, group: str, first: int, channels: NDArray[np.float64], about: dict[str, Any] | None
) -> Sequence:
    with np.errstate(over="ignore", invalid="ignore"):
        values = channels.astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableError("holds NaN, or numbers too large to be angles")
    times = INTERVAL * np.arange(first - 1, first - 1 + len(values), dtype=np.float64)
    return Sequence(key, group, times, values, np.ones(len(values), np.bool_), about)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)
