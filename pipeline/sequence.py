"""The contract between raw data and everything after it (numpy only).

A reader turns one raw item (a MIDI file, a sentence, a trial, a simulated film) into `Sequence`s; the rest of the
pipeline knows nothing of formats. Times are data: every sequence carries its own, in seconds.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from driftwork.config_base import Config
from driftwork.errors import DriftworkError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Kind = Literal["notes", "speech", "motion", "pictures"]
"""What frames are, which decides the figures and the file formats of generated outputs."""

_KIND_OF_UNITS: dict[str, Kind] = {
    "MIDI pitch sounding (0 or 1)": "notes",
    "joint angles in degrees, root steps in 5.644 cm a frame": "motion",
}
"""Kinds that data sets have which were prepared before `DataSpec.kind` was known, by their units."""


class UnreadableError(Exception):
    """One raw item cannot be used; the message is the reason that goes into the quarantine list."""


class Sequence(NamedTuple):
    """One training example: T frames of D channels."""

    key: str
    """Unique in the data set; letters, digits, `_`, `-` and `/` only (WebDataset cuts a key at its first dot)."""
    group: str
    """What must not be divided between splits: a song, a speaker, a trial."""
    times: NDArray[np.float64]
    """[T], seconds, strictly increasing."""
    values: NDArray[np.generic]
    """[T, D]; bool for binary data, float32 for real-valued data and pictures."""
    mask: NDArray[np.bool_]
    """[T], True where the frame is there."""
    about: dict[str, Any] | None = None
    """JSON that leads from the values back to the raw form, where the values alone do not."""


class DataSpec(Config):
    """What every sequence of a data set has in common; part of the manifest, so that a model can be sized from it."""

    dim: int = Field(ge=1)
    """D, channels of a frame."""
    length: int = Field(ge=1)
    """The largest T of any sequence."""
    interval: float = Field(gt=0)
    """Seconds between neighbouring frames."""
    likelihood: Literal["bernoulli", "gaussian"]
    """The observation model the values call for."""
    units: str
    """What a value measures, as a figure's axis would say it."""
    image: tuple[int, int] | None = None
    """Height and width where a frame is a picture, row by row; its values are grey, multiples of 1/255 in [0, 1]."""
    audio_rate: int | None = None
    """Samples a second where a frame is D samples of sound that follow one another; 1 is full scale."""
    kind: Kind | None = None
    """What the frames are; null: numbers without a file format of their own. Data prepared before this field was known
    have the kind that follows from their other fields."""

    @model_validator(mode="before")
    @classmethod
    def _kind_of_older_data(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "kind" in raw:
            return raw
        return {**raw, "kind": _implied_kind(raw.get("units"), raw.get("image"), raw.get("audio_rate"))}

    @classmethod
    def of_pictures(cls, side: int, length: int, interval: float) -> Self:
        """Of films of square pictures."""
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
            raise ValueError(f"a picture of {self.image[0]} x {self.image[1]} has no {self.dim} pixels")
        return self

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if (self.kind == "pictures") != (self.image is not None):
            raise ValueError("kind=pictures and image=(height, width) come together")
        if (self.kind == "speech") != (self.audio_rate is not None):
            raise ValueError("kind=speech and audio_rate come together")
        if self.kind == "notes" and not (self.binary and self.dim <= 128):
            raise ValueError("kind=notes takes likelihood=bernoulli and at most 128 channels, one a MIDI pitch")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the fields without those that older manifests lack, so that these keep their hash: `audio_rate` where
        there is no sound, `kind` where it follows from the others."""
        fields: dict[str, Any] = handler(self)
        if self.audio_rate is None:
            del fields["audio_rate"]
        if self.kind == _implied_kind(self.units, self.image, self.audio_rate):
            del fields["kind"]
        return fields

    @property
    def binary(self) -> bool:
        """Values are 0 or 1; pictures have Bernoulli likelihoods too, and the greys between."""
        return self.likelihood == "bernoulli" and self.image is None


def _implied_kind(units: Any, image: Any, audio_rate: Any) -> Kind | None:
    if image is not None:
        return "pictures"
    return "speech" if audio_rate is not None else _KIND_OF_UNITS.get(units)


class Item(NamedTuple):
    """One raw item, before it is read."""

    name: str
    """Path below the source folder with `/` between parts, or an id for what is simulated."""
    group: str
    files: tuple[str, ...]
    """What it is read from, below the source folder: their hashes decide whether a shard is up to date."""
    split: Split | None = None
    """Given when the data set brings its own split; otherwise it is drawn from the group."""


class Reader(Protocol):
    """One data set. Pure: no Ray, no torch; the same item gives the same sequences on every machine."""

    def spec(self) -> DataSpec: ...

    def __hash__(self) -> int:
        """Of its config: frozen, so that a process can keep what belongs to one."""
        ...

    def find(self, source: Path | None) -> list[Item]:
        """All items, sorted by name. Raises `DriftworkError` when there is nothing to read."""
        ...

    def read(self, source: Path | None, item: Item) -> list[Sequence]:
        """Raises `UnreadableError` with the reason when the item cannot be used."""
        ...


def grey(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels of 0 to 255 as values of 0 to 1, the only ones that a data set of pictures may have."""
    return levels.astype(np.float32) / np.float32(255)


def folder(source: Path | None) -> Path:
    """The folder of raw files that `source` is, or, where that is a single file, the one that it lies in."""
    if source is None:
        raise DriftworkError("source is missing; give the folder of raw files as source=DIR")
    if source.is_dir():
        return source
    if source.is_file():
        return source.parent
    raise DriftworkError(
        f"source={source}: {'is neither folder nor file' if source.exists() else 'no such folder or file'}"
    )
