"""Driftwork in Python: `driftwork.prepare`, `driftwork.train`, `driftwork.load`.

These functions run the same code as the commands. A setting is a keyword: `train={"max_epochs": 20}` is
`train.max_epochs=20` in a command.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from driftwork.config_base import parse
from driftwork.errors import DriftworkError
from driftwork.processes import ROOT
from launch import prepare as prepare_command
from launch.evaluation.evaluate import EvaluateConfig, evaluate
from launch.runs import run_folder
from launch.scoring.results import read_results
from launch.tables import forecast, impute
from launch.tables.request import ready
from launch.training.setup import folder_for
from launch.training.start import start_new
from pipeline.readers.tables import dataframes
from pipeline.readers.tables.config import TableConfig

CONFIGS = ROOT / "configs"


def prepare(source: Any, out: str | PathLike[str], **settings: Any) -> Path:
    """Prepare a table for training and return its folder, as `driftwork prepare configs/prepare/table.yaml` does.

    Args:
        source: a pandas DataFrame, an Arrow table, or the path of a file, a folder or a glob.
        out: folder to write.
        settings: columns and units of the table, such as `layout="wide"`, and all other settings of the command.
    """
    own = {name: settings.pop(name) for name in TableConfig.model_fields.keys() & settings.keys()}
    with _as_path(source) as path:
        words = _words({"source": path, "out": out, "dataset": own, **settings})
        _must(prepare_command.main([str(CONFIGS / "prepare/table.yaml"), *words]), "preparing")
    return Path(out)


def train(model: str | PathLike[str], data: str | PathLike[str], **settings: Any) -> "Run":
    """Train a model and return its run, as `driftwork train` does.

    Args:
        model: name of a model, whose config is `configs/train/MODEL_table.yaml`, or the path of a config.
        data: folder that `prepare` returned.
        settings: settings of the run, such as `out="runs/ward"` or `train={"max_epochs": 20}`.
    """
    named = CONFIGS / f"train/{model}_table.yaml"
    words = [str(named if named.exists() else Path(model)), *_words({"data": data, **settings})]
    with folder_for(words) as folder:
        _must(start_new(folder), f"training in {folder}")
    return Run(folder)


def load(run: str | PathLike[str]) -> "Run":
    """Return the trained run in this folder, or with this id in the tracking store."""
    return Run(run_folder.find(str(run)))


class Run:
    """A trained run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run('{self.folder}')"

    def evaluate(self, split: str = "test", **settings: Any) -> dict[str, Any]:
        """Score the run and its trivial baselines on a split, as `driftwork evaluate` does.

        Returns:
            the output of `driftwork evaluate --json`, for the model and each baseline: task -> rate in percent, or
            horizon in frames -> metric -> value, standard error and n.
        """
        request = parse(EvaluateConfig, _words({"split": split, **settings}), where="evaluate")
        return read_results(self.folder, evaluate(self.folder, request))

    def impute(self, source: Any, out: str | PathLike[str] | None = None, **settings: Any) -> Any:
        """Return a table with its missing values imputed, as `driftwork impute` does.

        Args:
            source: a pandas DataFrame, an Arrow table, or a path.
            out: file to write, `.parquet` or `.csv`; required if `source` is a path.
            settings: settings of the command, such as `quantiles=(0.1, 0.9)`.

        Returns:
            a table of the same type as `source`, or the path `out` if it is given.
        """
        with _answer(source, out) as (words, found):
            request = parse(impute.ImputeConfig, [*words, *_words(settings)])
            impute.impute(ready(self.folder, request, "interpolation"), request)
            return found()

    def forecast(
        self, source: Any, until: Any, every: Any, out: str | PathLike[str] | None = None, **settings: Any
    ) -> Any:
        """Return new rows after the end of each series of a table, as `driftwork forecast` does.

        Args:
            source: a pandas DataFrame, an Arrow table, or a path.
            until: last time, or a span after the end of each series, as in "+2d".
            every: time between two rows, as in "6h".
            out: file to write, `.parquet` or `.csv`; required if `source` is a path.
            settings: settings of the command.

        Returns:
            a table of the same type as `source`, or the path `out` if it is given.
        """
        with _answer(source, out) as (words, found):
            times = _words({"until": str(until), "every": str(every), **settings})
            request = parse(forecast.ForecastConfig, [*words, *times])
            forecast.forecast(ready(self.folder, request, "forecast"), request)
            return found()


@contextmanager
def _as_path(source: Any) -> Iterator[Path]:
    """Yield the path of a table; a table in memory is written to a temporary file."""
    if isinstance(source, str | PathLike):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="driftwork-") as folder:
        path = Path(folder, "table.parquet")
        dataframes.write(source, path)
        yield path


@contextmanager
def _answer(source: Any, out: str | PathLike[str] | None) -> Iterator[tuple[list[str], Callable[[], Any]]]:
    """Yield `source` and `out` as arguments of a command, and a function that returns the result afterwards."""
    if out is None and isinstance(source, str | PathLike):
        raise DriftworkError(f"source={source}: a file needs an output file; give out=FILE.parquet, or pass a table")
    with _as_path(source) as path, tempfile.TemporaryDirectory(prefix="driftwork-") as folder:
        written = Path(out) if out is not None else Path(folder, "answer.parquet")
        words = _words({"source": path, "out": written})
        yield words, lambda: written if out is not None else dataframes.read(written, source)


def _words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Convert settings to the arguments of a command line."""
    words: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            words += _words(value, f"{prefix}{key}.")
        else:
            typed = str(value) if isinstance(value, str | PathLike) else json.dumps(value)
            words.append(f"{prefix}{key}={typed}")
    return words


def _must(code: int, what: str) -> None:
    if code != 0:
        raise DriftworkError(f"{what} failed with exit code {code}; see its own message above")
