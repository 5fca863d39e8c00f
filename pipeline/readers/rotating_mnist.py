"""A handwritten 3 that rotates by a full turn in 16 frames, as in ODE2VAE (Yildiz et al., 2019; after Casale et al.,
2018).

The digits are those of MNIST's training files (IDX format, gzipped or not), or, without a source, the 8 x 8 digits that
come with scikit-learn. Frame k is rotated counter-clockwise by the sequence's start angle plus k/16 of a turn, in one
bilinear resampling. In every training sequence 30 % of the frames are missing (5 of 16, as in the published data; never
the first, from which a model starts). The validation and test sequences, the last two tenths of the digits, are whole.
"""

import gzip
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftwork.errors import DriftworkError
from driftwork.registry import Named
from pipeline.observe import key_seed
from pipeline.readers.raw_files import names_below, only_folder, read_raw
from pipeline.sequence import DataSpec, Item, Sequence, Split, UnreadableError, grey

DIGIT = 3
FRAMES = 16
SIDE = 28
INTERVAL = 0.1
"""Time units between frames, as in ODE2VAE."""
SMALL_BOX = 20
"""Width in pixels at which a scikit-learn digit is drawn: MNIST's digits fill 20 of 28 pixels."""
PER_ITEM = 50
"""Number of digits per item; a gzipped file has to be read whole for each item."""
MAX_BYTES = 256 * 2**20
IMAGES = ("train-images-idx3-ubyte", "train-images.idx3-ubyte")
LABELS = ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte")


class RotatingMnistConfig(Named):
    name: Literal["rotating_mnist"] = "rotating_mnist"
    """Data set: rotating pictures of the handwritten digit 3."""
    digits: int = Field(450, ge=3)
    """Maximum number of digits that are used, counted from the first of the file. 450 digits leave 360 for training, as
    published."""
    missing: float = Field(0.3, ge=0, lt=0.9)
    """Fraction of the frames that is missing from each training sequence."""
    seed: int = Field(0, ge=0)
    """Seed of the start angles and the missing frames."""


class Source(NamedTuple):
    """Files of the digits, relative to the source folder."""

    images: str
    labels: str


@dataclass(frozen=True)
class RotatingMnist:
    """Reader of MNIST's training files, or of scikit-learn's digits without files. Values are float32 [16, 784]."""

    config: RotatingMnistConfig

    def spec(self) -> DataSpec:
        return DataSpec.of_pictures(SIDE, FRAMES, INTERVAL)

    def find(self, source: Path | None) -> list[Item]:
        """Return items of `PER_ITEM` digits, named `SPLIT-FIRST-END` by their numbers among the digits 3."""
        files: tuple[str, ...] = ()
        if source is None:
            count = len(small_digits())
        else:
            files = _files(only_folder(source, "images and labels"))
            try:
                count = int((read_idx(source / files[1], dimensions=1) == DIGIT).sum())
            except UnreadableError as error:
                raise DriftworkError(f"source={source}: {error}; give another folder") from None
        count = min(count, self.config.digits)
        if count < 3:
            raise DriftworkError(
                f"source={source}: holds {count} digits {DIGIT}, too few for three splits; give a folder with 3 or more"
            )
        held = max(1, count // 10)
        bounds: dict[Split, tuple[int, int]] = {
            "train": (0, count - 2 * held), "val": (count - 2 * held, count - held), "test": (count - held, count)
        }  # fmt: skip
        items = []
        for split, (first, end) in bounds.items():
            for at in range(first, end, PER_ITEM):
                name = f"{split}-{at:05d}-{min(at + PER_ITEM, end):05d}"
                items.append(Item(name, group=name, files=files, split=split))
        return sorted(items)

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        first, end = map(int, item.name.split("-")[1:])
        pictures = small_digits() if source is None else _mnist_digits(source, Source(*item.files))
        box = SIDE if source is not None else SMALL_BOX
        return [self._sequence(number, pictures[number], box, item.split) for number in range(first, end)]

    def _sequence(self, number: int, picture: NDArray[np.uint8], box: int, split: Split | None) -> Sequence:
        random = np.random.Generator(np.random.Philox(key=key_seed("rotating_mnist", self.config.seed, number)))
        start = random.random()
        mask = np.ones(FRAMES, np.bool_)
        if split == "train":
            gone = random.permutation(FRAMES - 1)[: round(self.config.missing * FRAMES)]
            mask[1 + gone] = False
        frames = [turn(picture, start + k / FRAMES, box) for k in range(FRAMES)]
        values = grey(np.stack(frames).reshape(FRAMES, SIDE * SIDE))
        values[~mask] = 0
        key, times = f"digit-{number:05d}", INTERVAL * np.arange(FRAMES, dtype=np.float64)
        return Sequence(key, key, times, values, mask)


def turn(picture: NDArray[np.uint8], turns: float, box: int) -> NDArray[np.uint8]:
    """Rotate a square picture, drawn `box` pixels wide, counter-clockwise about its centre by `turns` of 360 degrees.

    The result [28, 28] is bilinear between the centres of the picture's pixels and black outside."""
    size = len(picture)
    angle = 2 * np.pi * turns
    right = np.arange(SIDE) - (SIDE - 1) / 2
    down = right[:, None]
    scale = size / box
    column = (np.cos(angle) * right - np.sin(angle) * down) * scale + (size - 1) / 2
    row = (np.sin(angle) * right + np.cos(angle) * down) * scale + (size - 1) / 2
    framed = np.pad(picture.astype(np.float64), 2)  # a point up to one pixel outside lies between picture and black
    row, column = np.clip(row, -2, size) + 2, np.clip(column, -2, size) + 2
    top, left = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    y, x = row - top, column - left
    upper = framed[top, left] * (1 - x) + framed[top, left + 1] * x
    lower = framed[top + 1, left] * (1 - x) + framed[top + 1, left + 1] * x
    return np.rint(upper * (1 - y) + lower * y).astype(np.uint8)


def small_digits() -> NDArray[np.uint8]:
    """Return scikit-learn's digits 3 (Alpaydin and Kaynak, 1998), [183, 8, 8], with their greys scaled to 0 to 255."""
    from sklearn.datasets import load_digits  # takes a second, and only this source needs it

    digits = load_digits()
    return np.rint(digits.images[digits.target == DIGIT] * (255 / 16)).astype(np.uint8)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read the array of an IDX file of bytes, gzipped if its name ends in .gz.

    Raises `UnreadableError` if it is not a whole file with this number of dimensions.
    """
    try:
        data = read_raw(path, MAX_BYTES, "MNIST")
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as unpacked:
                data = unpacked.read(MAX_BYTES + 1)
    except (UnreadableError, OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"{path.name}: cannot be read: {error}") from None
    header = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < header:
        raise UnreadableError(f"{path.name}: not a whole header of an IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    size = int(np.prod([int(n) for n in shape], dtype=object))
    if len(data) - header != size:
        raise UnreadableError(f"{path.name}: holds {len(data) - header} bytes, not {size} as in its header")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _mnist_digits(source: Path, files: Source) -> NDArray[np.uint8]:
    labels, images = read_idx(source / files.labels, 1), read_idx(source / files.images, 3)
    if images.shape != (len(labels), SIDE, SIDE):
        raise UnreadableError(f"{files.images}: {images.shape}, not {len(labels)} pictures of {SIDE} x {SIDE}")
    return images[labels == DIGIT]


def _files(root: Path) -> Source:
    """Find the first pair of images and labels below `root`."""
    names = set(names_below(root, "-ubyte", "-ubyte.gz"))
    for here in sorted({PurePosixPath(name).parent for name in names}, key=lambda path: path.parts):
        for images, labels in zip(IMAGES, LABELS, strict=True):
            for suffix in ("", ".gz"):
                pair = Source(str(here / (images + suffix)), str(here / (labels + suffix)))
                if set(pair) <= names:
                    return pair
    raise DriftworkError(
        f"source={root}: no {IMAGES[0]} with {LABELS[0]} (or both .gz) in it or below it; give another folder"
    )
