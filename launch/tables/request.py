"""The common part of the commands `impute` and `forecast`: the run, the user's table, and the file that is written."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from driftwork.files import aside, require_room, writing
from launch.figures import bands
from launch.prediction.answers import Answerer, Quantiles, Task
from launch.runs import run_folder, weights
from launch.runs.distributed import alone
from launch.scoring.draws import Draws
from launch.tables import shown
from launch.tables.answering import Answered
from launch.tables.asking import Ready, Table
from launch.tracker.tracking import OfStore
from pipeline.prepare.build import Unreadable
from pipeline.prepare.gather import read_files
from pipeline.prepare.guard import Limits
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found, find
from pipeline.readers.tables.sheets import Missing
from pipeline.readers.tables.writing import csv_of, parquet_of
from pipeline.reading.covariates import Covariates
from pipeline.shards.manifest import read_manifest
from pipeline.shards.storage import Place

LIMITS = Limits(seconds=20.0, mib=2048)
"""Limits on reading a file, as the defaults of `driftwork prepare`."""
ENDINGS = (".parquet", ".csv")


class TableRequest(OfStore):
    source: Path
    """Table to read: a CSV, Parquet or .npz file, a folder of these, or a glob, such as 'raw/*.csv'."""
    out: Path
    """File to write, and to replace where it exists. Its ending chooses the format: .parquet or .csv."""
    dataset: TableConfig | None = None
    """Settings of this table that differ from those of the run's data, such as `dataset.layout=wide`. Null takes the
    settings of the run's data.
    """
    quantiles: Quantiles = (0.05, 0.95)
    """Quantiles beside mean and standard deviation of real-valued channels, each given by its probability. The default
    gives the 90 % interval."""
    figure: Path | None = None
    """Figure of the first series, with bands between the outer quantiles. Its ending chooses the format: .png, .pdf or
    .svg. Null draws it beside `out`, with the ending .png."""
    max_unreadable: float = Field(0.1, ge=0, le=1)
    """Fraction of unreadable files, or of series, above which the command fails. Up to this fraction they are listed in
    `OUT.quarantine.jsonl`."""
    data: Place | None = None
    """Folder or URL where the run's prepared data are now, whose manifest is read. Null takes it from the run's
    config."""

    @property
    def drawn(self) -> Path:
        """Return the path of the figure."""
        return self.figure or self.out.with_suffix(".png")


R = TypeVar("R", bound=TableRequest)


def requested(kind: type[R], argv: list[str], task: Task) -> tuple[R, Ready]:
    """Return the request of a command line `RUN key=value ...`, and the run that answers it."""
    request = parse(kind, argv[1:])
    run_folder.check_store_is_read(argv[:1], request.tracking.uri)
    return request, ready(run_folder.find(argv[0], request.tracking.uri), request, task)


def ready(folder: Path, request: TableRequest, task: Task) -> Ready:
    """Load the run's model. Raises `DriftworkError` if it cannot answer the request."""
    for key, path, endings in (("out", request.out, ENDINGS), ("figure", request.drawn, bands.FORMATS)):
        if path.suffix not in endings or path.is_dir():
            raise DriftworkError(f"{key}={path}: must be a file that ends in {' or '.join(endings)}")
    config = run_folder.config_of(folder)
    manifest = run_folder.divided(config, read_manifest(request.data or config.data))
    spec = manifest.spec
    if spec.table is None:
        raise DriftworkError(f"{folder}: was not trained on a table; use driftwork predict")
    model = run_folder.model_for(config, manifest)
    weights.load_best(model, folder, alone().device)
    model.eval()
    draws, bernoulli = Draws.of(config.evaluate), spec.likelihood == "bernoulli"
    answerer = Answerer(model, task, draws, spec.binary, bernoulli, () if bernoulli else request.quantiles)
    trained = TableConfig.model_validate(manifest.recipe["dataset"])
    covariates, text = Covariates(spec, manifest.stats, str(folder)), request.out.suffix == ".csv"
    name, size = config.model.name, config.evaluate.batch_size
    return Ready.of(name, answerer, spec, covariates, trained, request.dataset, batch_size=size, text=text)


@contextmanager
def opened(ready: Ready, request: TableRequest, missing: Missing) -> Iterator[tuple[Table, Path]]:
    """Yield the user's table and its scratch folder beside `out`. The folder is removed at the end.

    Args:
        missing: values that are kept as NaN, see `SheetsConfig`.
    """
    found = find(request.source)
    _check_keeps(request, found)
    with writing(f"out={request.out}"):
        request.out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=request.out.parent, prefix=f".{request.out.name}.")
    with scratch as folder:
        with writing(f"figure={request.drawn}"):  # a folder that cannot be written ends the command before its work
            request.drawn.parent.mkdir(parents=True, exist_ok=True)
            require_room(request.drawn.parent)

        def read(config: TableConfig) -> dict[str, str]:
            files = read_files(config, found, Path(folder), LIMITS, None, missing)
            bad = {file.file: file.reason for file in files}
            _check_share(request, bad, len(found.names), "files")
            return bad

        yield Table(ready, found, Path(folder), read), Path(folder)


def check(table: Table, request: TableRequest) -> None:
    """Write the list of files and series that are left out, and raise `DriftworkError` for too many bad series."""
    path = request.out.with_name(f"{request.out.name}.quarantine.jsonl")
    reasons = {**table.bad, **table.refused, **table.empty}
    bad = [Unreadable(file=name, reason=reason) for name, reason in reasons.items()]
    if not bad:
        path.unlink(missing_ok=True)
        return
    with aside(path) as temporary:
        temporary.write_text("".join(f"{entry.model_dump_json()}\n" for entry in bad), encoding="utf-8")
    _check_share(request, table.refused, len(table.merged.series) - len(table.empty), "series")
    print(f"{len(bad)} files or series are left out, the first {bad[0].file}: {bad[0].reason}; see {path}")


def write(ready: Ready, request: TableRequest, answered: Answered) -> int:
    """Write a table with predictions to `request.out`, and return the number of its rows."""
    with writing(f"out={request.out}"), aside(request.out) as temporary:
        if ready.layout.text:
            return csv_of(temporary, answered.schema, answered.rows, ready.table.separator)
        return parquet_of(temporary, answered.schema, answered.rows)


def draw(ready: Ready, request: TableRequest, answered: Answered, title: str) -> Path:
    """Draw the figure of the first series and return its path."""
    with writing(f"figure={request.drawn}"):
        shown.write(request.drawn, answered.shown, ready.spec, title)
    return request.drawn


def _check_keeps(request: TableRequest, found: Found) -> None:
    """Raise `DriftworkError` if an output would replace a file of the user's table."""
    read = {os.path.realpath(found.root / name) for name in found.names}  # Path.resolve fails on a loop of links
    for key, path in (("out", request.out), ("figure", request.drawn)):
        if os.path.realpath(path) in read:
            raise DriftworkError(f"{key}={path}: is the table that is read; give another file")


def _check_share(request: TableRequest, bad: dict[str, str], total: int, what: str) -> None:
    if len(bad) > request.max_unreadable * total or (bad and len(bad) == total):
        first = "; ".join(f"{name}: {reason}" for name, reason in list(bad.items())[:3])
        if total == 1:
            raise DriftworkError(first)
        cure = "repair them" if len(bad) == total else "repair them, or raise max_unreadable"
        raise DriftworkError(f"{len(bad)} of {total} {what} cannot be used ({first}); {cure}")
