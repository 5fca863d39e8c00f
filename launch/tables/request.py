"""The common part of `impute` and `forecast`: the run, the user's table, and the sequences for the model."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftwork.config_base import build
from driftwork.errors import DriftworkError
from driftwork.files import aside, printable, writing
from launch.prediction.answers import Answerer, Frames, Task
from launch.runs import run_folder, weights
from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.scoring.draws import Draws
from launch.tracker.tracking import OfStore
from models.base import Model
from pipeline.observe import key_seed
from pipeline.prepare.build import Unreadable
from pipeline.prepare.gather import read_files
from pipeline.prepare.guard import Limits
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found, find
from pipeline.readers.tables.merge import Merged, merge
from pipeline.readers.tables.questions import Own, check_fits, own_series
from pipeline.readers.tables.returned import Layout
from pipeline.readers.tables.series import window_unit
from pipeline.reading.covariates import Covariates
from pipeline.reading.stream import collate
from pipeline.sequence import DataSpec, Sequence
from pipeline.shards.manifest import read_manifest
from pipeline.shards.storage import Place
from pipeline.table_spec import TableSpec

LIMITS = Limits(seconds=20.0, mib=2048)
"""Limits on reading a file, as the defaults of `driftwork prepare`."""
ENDINGS = (".parquet", ".csv")


class TableRequest(OfStore):
    source: Path
    """Table to read: a CSV, Parquet or .npz file, a folder of these, or a glob, such as 'raw/*.csv'."""
    out: Path
    """File to write, and to replace where it exists. Its ending chooses the format: .parquet or .csv."""
    dataset: TableConfig | None = None
    """Settings of this table that differ from those the run's data were prepared with, such as
    `dataset.layout=wide`. Null takes all from there."""
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.05, 0.95)
    """Quantiles beside mean and standard deviation of real-valued channels, each by its probability. The default gives
    the 90 % interval."""
    figure: Path | None = None
    """Figure of the first series, with bands between the outer quantiles. Null draws it beside `out`, with the ending
    .png."""
    max_unreadable: float = Field(0.1, ge=0, le=1)
    """Fraction of unreadable files, or of series, above which the command fails. Those below it are listed in
    `OUT.quarantine.jsonl`."""
    data: Place | None = None
    """Folder or URL where the run's prepared data lie now, whose manifest is read. Null takes it from the run's
    config."""


class Ready(NamedTuple):
    """A run and the settings of a user's table."""

    model: Model
    config: RunConfig
    spec: DataSpec
    table: TableConfig
    """Settings of the table, with all channels of the run."""
    covariates: Covariates
    chosen: bool
    """Whether the run's channels were chosen among others, which are then left out of a table."""
    answerer: Answerer
    layout: Layout


def ready(folder: Path, request: TableRequest, task: Task) -> Ready:
    """Load the run's model. Raises `DriftworkError` if it cannot answer the request."""
    if request.out.suffix not in ENDINGS or request.out.is_dir():
        raise DriftworkError(f"out={request.out}: must be a file that ends in {' or '.join(ENDINGS)}")
    config = run_folder.config_of(folder)
    manifest = run_folder.divided(config, read_manifest(request.data or config.data))
    spec = manifest.spec
    if spec.table is None:
        raise DriftworkError(f"{folder}: was not trained on a table; driftwork predict answers about its data")
    trained = TableConfig.model_validate(manifest.recipe["dataset"])
    table = _settings(trained, spec.table, request.dataset)
    model = run_folder.model_for(config, manifest)
    weights.load_best(model, folder, alone().device)
    model.eval()
    covariates = Covariates(spec, manifest.stats, str(folder))
    draws, bernoulli = Draws.of(config.evaluate), spec.likelihood == "bernoulli"
    answerer = Answerer(model, task, draws, spec.binary, bernoulli, () if bernoulli else request.quantiles)
    uncertain, text = tuple(answerer.columns[1:]), request.out.suffix == ".csv"
    layout = Layout(table, uncertain, spec.table.binary, trained.attributes, text)
    return Ready(model, config, spec, table, covariates, bool(trained.channels), answerer, layout)


def _settings(trained: TableConfig, table: TableSpec, given: TableConfig | None) -> TableConfig:
    """Return the settings of the user's table: all channels are named, and no column of groups or splits is needed."""
    own = given.model_dump(include=given.model_fields_set) if given else {}
    known = dict(zip(table.channels, table.units, strict=True)) if table.units else {}
    for channel, unit in zip(own.get("channels", ()), own.get("units", ()), strict=False):
        if known.get(channel) != unit:
            there = known.get(channel, "none")
            raise DriftworkError(f"dataset.units: {channel} is in {unit}, in the run's data in {there}; convert it")
    fixed = {"channels": table.channels, "units": table.units, "group": None, "split": None, "stride": None}
    raw = {**trained.model_dump(), **own, **fixed}
    if raw["window"] is not None and "window" not in own:
        raw["window"] *= window_unit(trained.time_unit) / window_unit(raw["time_unit"])
    return build(TableConfig, raw, where="dataset")


class Table:
    """The user's table, read and put together in a scratch folder."""

    def __init__(self, ready: Ready, request: TableRequest, found: Found, folder: Path, holes: bool) -> None:
        # A long table is read with all its channels, to find those that the run does not know.
        every = ready.table.layout == "long" and not ready.chosen
        reads = ready.table.model_copy(update={"channels": (), "units": ()}) if every else ready.table
        self.bad = read_files(reads, found, folder, LIMITS, None, holes)
        _check_share(request, [(file.file, file.reason) for file in self.bad], len(found.names), "files")
        names = {file.file for file in self.bad}
        self.files = [(n, found.root / name) for n, name in enumerate(found.names) if printable(name) not in names]
        self.merged: Merged = merge(ready.table, folder, [number for number, _ in self.files], found.names)
        for line in check_fits(ready.table, ready.spec, self.merged):
            print(line, flush=True)
        self.refused: dict[str, str] = {}
        self._own = own_series(ready.table, ready.spec, folder, self.merged, found.names, self.refused)

    def series(self) -> Iterator[Own]:
        """Yield its series, once. Those that cannot be used are in `refused` afterwards."""
        yield from self._own

    def check(self, request: TableRequest) -> None:
        """Write the list of bad files and series, and raise `DriftworkError` for too many bad series."""
        bad = [*self.bad, *(Unreadable(file=name, reason=reason) for name, reason in self.refused.items())]
        path = request.out.with_name(f"{request.out.name}.quarantine.jsonl")
        if not bad:
            path.unlink(missing_ok=True)
            return
        with aside(path) as temporary:
            temporary.write_text("".join(f"{entry.model_dump_json()}\n" for entry in bad), encoding="utf-8")
        _check_share(request, list(self.refused.items()), len(self.merged.series), "series")
        print(f"{len(bad)} files or series are left out, the first {bad[0].file}: {bad[0].reason}; see {path}")


@contextmanager
def opened(ready: Ready, request: TableRequest, *, holes: bool) -> Iterator[tuple[Table, Path]]:
    """Yield the user's table and its scratch folder, beside `out`, which is removed.

    Args:
        holes: keep missing values, to ask about them.
    """
    found = find(request.source)
    with writing(f"out={request.out}"):
        request.out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=request.out.parent, prefix=f".{request.out.name}.")
    with scratch as folder:
        yield Table(ready, request, found, Path(folder), holes), Path(folder)


def answered(ready: Ready, sequences: list[Sequence]) -> Iterator[tuple[Frames, NDArray[np.float32]]]:
    """Yield the frames of each sequence, and the answers [T, D, K] about them in the order of columns. Beside its
    probability a binary channel has none."""
    binary = np.isin(ready.table.channels, ready.layout.binary)
    seeds = [key_seed(0, "noise", 0, sequence.key) for sequence in sequences]
    static = [ready.covariates.of(sequence.about) for sequence in sequences]
    batch = collate(sequences, [sequence.mask for sequence in sequences], [1.0] * len(sequences), seeds, static)
    for frames in ready.answerer.frames(batch):
        answers = np.stack([frames.answers[name] for name in ready.answerer.columns], axis=-1)
        answers[:, binary, 1:] = np.nan
        yield frames, answers


def _check_share(request: TableRequest, bad: list[tuple[str, str]], total: int, what: str) -> None:
    if len(bad) > request.max_unreadable * total or (bad and len(bad) == total):
        first = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
        raise DriftworkError(f"{len(bad)} of {total} {what} cannot be used ({first})")
