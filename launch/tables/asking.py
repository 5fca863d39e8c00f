"""Predictions of a user's table, a batch at a time: its settings, its series, and the model's predictions."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftwork.config_base import build
from driftwork.errors import DriftworkError
from driftwork.files import printable
from launch.prediction.answers import Answerer, Frames
from pipeline.observe import key_seed
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found
from pipeline.readers.tables.merge import Merged, merge
from pipeline.readers.tables.parts import shown
from pipeline.readers.tables.questions import Own, check_fits, own_series
from pipeline.readers.tables.returned import Layout
from pipeline.readers.tables.series import window_unit
from pipeline.reading.covariates import Covariates
from pipeline.reading.stream import collate
from pipeline.sequence import DataSpec, Sequence
from pipeline.table_spec import TableSpec

SHOWN = 3
"""Number of series whose predictions are kept for a figure."""


class Limit(NamedTuple):
    """The longest sequence that the model predicts."""

    frames: int
    seconds: float

    def check(self, sequence: Sequence) -> None:
        frames, seconds = len(sequence.times), float(sequence.times[-1] - sequence.times[0])
        if frames > self.frames:
            raise DriftworkError(
                f"series {shown(sequence.group)} has {frames} times; divide it into series of at most {self.frames}"
            )
        if seconds > self.seconds:
            spans = f"series {shown(sequence.group)} spans {seconds:g} s"
            raise DriftworkError(f"{spans}; divide it into series of at most {self.seconds:g} s")


class Ready(NamedTuple):
    """A model and the settings of a user's table."""

    name: str
    """Name of the model."""
    answerer: Answerer
    spec: DataSpec
    table: TableConfig
    """Settings of the table, with all channels of the run."""
    covariates: Covariates
    chosen: bool
    """Whether the run's channels were chosen among others, which are then left out of a table."""
    layout: Layout
    batch_size: int
    """Number of sequences in a batch of the model."""
    seed: int
    """Seed of the noise of the predictions."""
    limit: Limit | None = None
    """Longest sequence that the model predicts. None allows any."""

    @classmethod
    def of(
        cls, name: str, answerer: Answerer, spec: DataSpec, covariates: Covariates, trained: TableConfig,
        given: TableConfig | None = None, *, batch_size: int, text: bool, seed: int = 0,
    ) -> "Ready":  # fmt: skip
        """Return a model that is ready for a table.

        Args:
            trained: settings of the table that the model was trained on.
            given: those of the user's table that differ.
            text: whether a CSV file is written.
        """
        assert spec.table is not None, "the data are not a table"
        table = _settings(trained, spec.table, given)
        layout = Layout(table, answerer.columns[1:], spec.table.binary, trained.attributes, text)
        return cls(name, answerer, spec, table, covariates, bool(trained.channels), layout, batch_size, seed)


def _settings(trained: TableConfig, table: TableSpec, given: TableConfig | None) -> TableConfig:
    """Return the settings of the user's table: those of the run's data, replaced by those that are `given`. All
    channels are named, and no column of groups or splits is needed.
    """
    own = given.model_dump(include=given.model_fields_set) if given else {}
    known = dict(zip(table.channels, table.units, strict=True)) if table.units else {}
    for channel, unit in zip(own.get("channels", ()), own.get("units", ()), strict=False):
        if known.get(channel) != unit:
            there = known.get(channel, "none")
            raise DriftworkError(
                f"dataset.units: {channel} is in {unit}, but in {there} in the run's data; convert the channel"
            )
    fixed = {"channels": table.channels, "units": table.units, "group": None, "split": None, "stride": None}
    raw = {**trained.model_dump(), **own, **fixed}
    if raw["window"] is not None and "window" not in own:
        raw["window"] *= window_unit(trained.time_unit) / window_unit(raw["time_unit"])
    return build(TableConfig, raw, where="dataset")


class Table:
    """The user's table, read and put together in a scratch folder.

    Args:
        read: writes the part of each file (`pipeline.readers.tables.sheets`) by the settings that it is given,
            and returns the reason for each unreadable file, by name.
    """

    def __init__(self, ready: Ready, found: Found, folder: Path, read: Callable[[TableConfig], dict[str, str]]) -> None:
        # A long table is read with all its channels, to find those that the run lacks.
        every = ready.table.layout == "long" and not ready.chosen
        self.bad = read(ready.table.model_copy(update={"channels": (), "units": ()}) if every else ready.table)
        self.files = [(n, found.root / name) for n, name in enumerate(found.names) if printable(name) not in self.bad]
        self.merged: Merged = merge(ready.table, folder, [number for number, _ in self.files], found.names)
        for line in check_fits(ready.table, ready.spec, self.merged):
            print(line, flush=True)
        self.refused: dict[str, str] = {}
        """Series that cannot be used, with the reason; complete when `series` has ended."""
        self.empty: dict[str, str] = {}
        """Series without a value, with the reason to leave them out; complete when `observed_series` has ended."""
        self._own = own_series(ready.table, ready.spec, folder, self.merged, found.names, self.refused)

    def series(self) -> Iterator[Own]:
        """Yield the series of the table. This can be called only once."""
        yield from self._own

    def observed_series(self) -> Iterator[Own]:
        """Yield the series that have a value, in place of `series`."""
        others = dict.fromkeys(self.merged.series)
        for own in self._own:
            if own.frames.mask.any():
                del others[own.name]
                yield own
        for name in map(printable, others):
            if name not in self.refused:
                self.empty[name] = "has no value to forecast from"


class _Question(Protocol):
    @property
    def sequence(self) -> Sequence: ...


Q = TypeVar("Q", bound=_Question)


def asked(ready: Ready, questions: Iterable[Q]) -> Iterator[tuple[Q, Frames, NDArray[np.float32]]]:
    """Yield each question with the frames of its sequence and the K predictions [T, D, K] in the order of the columns.
    Of a binary channel, all but the probability are NaN.
    """
    binary = np.isin(ready.table.channels, ready.layout.binary)
    waiting = iter(questions)
    while some := list(islice(waiting, ready.batch_size)):
        for question, frames in zip(some, _frames(ready, [question.sequence for question in some]), strict=True):
            answers = np.stack([frames.answers[name] for name in ready.answerer.columns], axis=-1)
            answers[:, binary, 1:] = np.nan
            yield question, frames, answers


def _frames(ready: Ready, sequences: list[Sequence]) -> Iterator[Frames]:
    seeds = [key_seed(ready.seed, "noise", 0, sequence.key) for sequence in sequences]
    for sequence in sequences:
        if ready.limit is not None:
            ready.limit.check(sequence)
    static = [ready.covariates.of(sequence.about) for sequence in sequences]
    batch = collate(sequences, [sequence.mask for sequence in sequences], [1.0] * len(sequences), seeds, static)
    yield from ready.answerer.frames(batch)
