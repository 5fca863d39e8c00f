"""The interface between raw data and the rest of the pipeline (numpy only).

A reader turns one raw item (a MIDI file, a sentence, a trial, a simulated film) into `Sequence`s; the rest of the
pipeline does not depend on formats. Times are data: every sequence carries its own, in seconds.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from pipeline.table_spec import TableSpec

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Kind = Literal["notes", "speech", "motion", "pictures", "table"]
"""Kind of data, which decides the figures and the file formats of generated outputs."""

_KIND_OF_UNITS: dict[str, Kind] = {
    "MIDI pitch sounding (0 or 1)": "notes",
    "joint angles in degrees, root steps in 5.644 cm a frame": "motion",
}
"""Kinds of data sets that were prepared before `DataSpec.kind` existed, by their units."""


class UnreadableError(Exception):
    """Error for a raw item that cannot be used. Its message is the reason, as in the quarantine list; the caller adds
    the file and what to do."""


class Sequence(NamedTuple):
    """One training example: T frames of D channels."""

    key: str
    """Name, unique in the data set; letters, digits, `_`, `-` and `/` only (WebDataset cuts a key at its first dot)."""
    group: str
    """Name of the song, speaker or trial, which must not be divided between splits."""
    times: NDArray[np.float64]
    """[T] times of the frames, in seconds, strictly increasing."""
    values: NDArray[np.generic]
    """[T, D] values of the frames: bool for binary data, float32 for real-valued data and pictures."""
    mask: NDArray[np.bool_]
    """[T] True where the frame is present; in a table [T, D], True where the channel has a value."""
    about: dict[str, Any] | None = None
    """JSON needed to restore the raw form from the values; None if the values suffice."""


class DataSpec(Config):
    """Properties shared by all sequences of a data set. They are part of the manifest, so that a model can be sized
    from it."""

    dim: int = Field(ge=1)
    """Number of channels D of a frame."""
    length: int = Field(ge=1)
    """Number of frames T of the longest sequence."""
    interval: float = Field(gt=0)
    """Time between neighbouring frames, in seconds."""
    likelihood: Literal["bernoulli", "gaussian"]
    """Observation model that suits the values."""
    units: str
    """Quantity and unit of a value, as the label of a figure's axis."""
    image: tuple[int, int] | None = None
    """Height and width of a frame that is a picture, in pixels. Pixels are stored row by row, grey, as multiples of
    1/255 in [0, 1]. Null where a frame is no picture."""
    audio_rate: int | None = None
    """Sampling rate where a frame is D successive samples of sound, in samples per second; full scale is 1. Null where
    a frame is no sound."""
    kind: Kind | None = None
    """Kind of the data, which decides on figures and output files. Null for numbers without a file format of their own.
    For data prepared before this field existed, the kind is derived from their other fields."""
    table: TableSpec | None = None
    """Columns, units and categories of a table, whose masks are of each channel. Null for other data, whose masks are
    of whole frames."""

    @model_validator(mode="before")
    @classmethod
    def _kind_of_older_data(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "kind" in raw:
            return raw
        return {**raw, "kind": _implied_kind(raw.get("units"), raw.get("image"), raw.get("audio_rate"))}

    @classmethod
    def of_pictures(cls, side: int, length: int, interval: float) -> Self:
        """Return the spec of films of square pictures with `side` pixels."""
        return cls(
            dim=side * side,
            length=length,
            interval=interval,
            likelihood="bernoulli",
            units="grey (0 to 1)",
            image=(side, side),
            kind="pictures",
        )

    @model_validator(mode="after")
    def _whole_pictures(self) -> Self:
        if self.image is not None and (min(self.image) < 1 or self.image[0] * self.image[1] != self.dim):
            height, width = self.image
            raise ValueError(f"a picture of {height} x {width} does not have {self.dim} pixels; correct dim")
        return self

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if (self.kind == "pictures") != (self.image is not None):
            raise ValueError("kind=pictures and image=(height, width) need each other; give both or neither")
        if (self.kind == "speech") != (self.audio_rate is not None):
            raise ValueError("kind=speech and audio_rate need each other; give both or neither")
        if (self.kind == "table") != (self.table is not None):
            raise ValueError("kind=table and table need each other; give both or neither")
        if self.table is not None and len(self.table.channels) != self.dim:
            raise ValueError(f"a table of {len(self.table.channels)} channels does not have dim={self.dim}; set dim")
        if self.kind == "notes" and not (self.binary and self.dim <= 128):
            raise ValueError("kind=notes takes likelihood=bernoulli and at most 128 channels, one per MIDI pitch")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields as older manifests have them, so that the hashes of these stay the same.

        `audio_rate` is left out without sound, `table` without a table, `kind` if it follows from other fields."""
        fields: dict[str, Any] = handler(self)
        if self.audio_rate is None:
            del fields["audio_rate"]
        if self.table is None:
            del fields["table"]
        if self.kind == _implied_kind(self.units, self.image, self.audio_rate):
            del fields["kind"]
        return fields

    @property
    def binary(self) -> bool:
        """Whether all values are 0 or 1. Pictures have a Bernoulli likelihood too, but also values in between."""
        return self.likelihood == "bernoulli" and self.image is None


def _implied_kind(units: Any, image: Any, audio_rate: Any) -> Kind | None:
    if image is not None:
        return "pictures"
    if audio_rate is not None:
        return "speech"
    return _KIND_OF_UNITS.get(units) if isinstance(units, str) else None


class Item(NamedTuple):
    """One raw item, before it is read."""

    name: str
    """Path below the source folder with `/` between parts, or an id for simulated data."""
    group: str
    files: tuple[str, ...]
    """Files of the item, relative to the source folder. Their hashes decide whether a shard is up to date."""
    split: Split | None = None
    """Split that the data set itself defines; None to derive it from the group."""


class Reader(Protocol):
    """Reader of one data set, without Ray and torch. An item gives the same sequences on every machine."""

    def spec(self) -> DataSpec: ...

    def __hash__(self) -> int:
        """Return the hash of the frozen config, so that a process can cache by reader."""
        ...

    def find(self, source: Path | None) -> list[Item]:
        """Return all items, sorted by name. Raises `DriftworkError` if there is nothing to read."""
        ...

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        """Read the sequences of an item. Raises `UnreadableError` with the reason if it cannot be used."""
        ...


@runtime_checkable
class FileReader(Reader, Protocol):
    """A reader that can also read a single file of the user's own."""

    def read_file(self, path: Path) -> list[Sequence]:
        """Return the sequences of one file, read like a file of the data set. Its folder and its name do not matter.

        Raises `UnreadableError` with the reason if the file cannot be used."""
        ...


def grey(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert pixels of 0 to 255 to values of 0 to 1, the only values that a data set of pictures may have."""
    return levels.astype(np.float32) / np.float32(255)


def folder(source: Path | None) -> Path:
    """Return the folder of raw files: `source` itself, or the folder of the single file that it names.

    Raises `DriftworkError` if `source` is None or does not exist."""
    if source is None:
        raise DriftworkError("source is missing; give the folder of raw files as source=DIR")
    if source.is_dir():
        return source
    if source.is_file():
        return source.parent
    problem = "is neither folder nor file" if source.exists() else "no such folder or file"
    raise DriftworkError(f"source={source}: {problem}; give another source")
