"""A model of a table as served by MLflow: it gets the user's whole table, and returns it with filled holes or
continued.

MLflow copies this file and the packages that it imports to the weights. The answers are those of `driftwork impute` and
`driftwork forecast`. A request about single sequences is answered by `launch.serving.served_model`.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from driftwork.config_base import Config
from driftwork.errors import DriftworkError
from launch.prediction.answers import Answerer, distinct
from launch.scoring.draws import Draws
from launch.serving import served_model
from launch.serving.served_model import COLUMNS, MOST_FRAMES, Asked, Served, refusing
from launch.tables.answering import Answered, check_goes_on, continued, filled, horizon
from launch.tables.asking import Limit, Ready, Table
from models.base import Forecaster, Smoother
from pipeline.readers.tables import dataframes
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Found
from pipeline.readers.tables.sheets import Sheets, SheetsConfig
from pipeline.reading.covariates import Covariates
from pipeline.sequence import DataSpec, Item, UnreadableError
from pipeline.shards.stats import Stats

DESCRIPTION = "table.json"
_NAME = "table.parquet"
"""File of a request's table in its scratch folder."""


class TableDescription(Config):
    """Settings for predictions of whole tables, beside the description of the model."""

    spec: DataSpec
    """Form of the sequences, with the names of columns, channels and categories."""
    stats: Stats
    """Mean and scale of the training data."""
    dataset: TableConfig
    """Settings of the table that the model was trained on."""
    rollout: bool
    """Whether a model with a filter predicts without it."""
    batch_size: int
    """Number of sequences in a batch of the model."""


class Times(NamedTuple):
    """Times of a forecast as in the command. Both are empty where holes are to be filled."""

    until: str
    every: str


class ServedTable:
    """The model object that MLflow calls.

    Args:
        model: the served model of single sequences.
        table: settings of the table.
    """

    def __init__(self, model: Served, table: TableDescription) -> None:
        self._model, self._table = model, table
        self._covariates = Covariates(table.spec, table.stats, "the model")

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of the table with predictions or, if each row is a sequence, the result of `Served.predict`.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE, for which a server responds 400.
        """
        if set(COLUMNS) <= set(getattr(model_input, "columns", ())):
            return self._model.predict(model_input, params)
        with refusing():
            return self._rows(model_input, params or {})

    def _rows(self, frame: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
        times = Times(str(params.get("until") or ""), str(params.get("every") or ""))
        ready = self._ready(params, times)
        self._check_columns(frame)
        with tempfile.TemporaryDirectory(prefix="driftwork-") as folder:
            scratch = Path(folder)
            dataframes.write(frame, scratch / _NAME)
            answered = self._answered(ready, scratch, times)
            found: list[dict[str, Any]] = [row for batch in answered.rows for row in batch.to_pylist()]
        return found

    def _answered(self, ready: Ready, scratch: Path, times: Times) -> Answered:
        ahead = horizon(ready, *times)._replace(most=MOST_FRAMES) if times.until else None

        def read(config: TableConfig) -> dict[str, str]:
            sheets = Sheets(SheetsConfig(table=config, scratch=scratch, missing="rows" if ahead else "all"))
            try:
                sheets.read(scratch, Item(_NAME, "0", (_NAME,)))
            except UnreadableError as error:
                raise DriftworkError(str(error)) from None
            return {}

        table = Table(ready, Found(scratch, (_NAME,)), scratch, read)
        answered = filled(ready, table, scratch) if ahead is None else continued(ready, table, scratch, ahead)
        for name, reason in {**table.refused, **table.empty}.items():
            raise DriftworkError(f"series '{name}': {reason}")
        if ahead is not None:
            check_goes_on(answered, times.until)
        return answered

    def _ready(self, params: dict[str, Any], times: Times) -> Ready:
        """Check the parameters of a request, and return the model with them."""
        model, table, name = self._model.model, self._table, self._model.description.model.name
        asked: Asked = self._model.asked(params)
        if asked.task != served_model.tasks(model)[0]:
            raise DriftworkError(f"task={asked.task}: has no effect on a table; leave it out")
        if bool(times.until) != bool(times.every):
            raise DriftworkError("until, every: a forecast needs both; give both, or none to fill holes")
        if not times.until and isinstance(model, Forecaster):
            raise DriftworkError(f"until, every: {name} forecasts and does not fill holes; give both")
        if times.until and isinstance(model, Smoother):
            raise DriftworkError(f"until, every: {name} fills holes and does not forecast; leave them out")
        bernoulli = table.spec.likelihood == "bernoulli"
        levels = _levels(params)
        answerer = Answerer(
            model, "forecast" if times.until else "interpolation", Draws(asked.samples, asked.particles, table.rollout),
            table.spec.binary, bernoulli, () if bernoulli else levels,
        )  # fmt: skip
        ready = Ready.of(
            name, answerer, table.spec, self._covariates, table.dataset, batch_size=table.batch_size, text=False,
            seed=asked.seed,
        )  # fmt: skip
        return ready._replace(limit=Limit(MOST_FRAMES, self._model.description.seconds))

    def _check_columns(self, frame: Any) -> None:
        config, spec = self._table.dataset, self._table.spec.table
        assert spec is not None, "the data are not a table"
        there = list(getattr(frame, "columns", ()))
        if not there:
            raise DriftworkError("no table is given; send dataframe_split or dataframe_records with its columns")
        values = [config.channel, config.value] if config.layout == "long" else list(spec.channels)
        wanted = [config.series, config.time, *(static.column for static in spec.static), *values]
        lacking = [name for name in wanted if name not in there]
        if lacking:
            raise DriftworkError(f"column '{lacking[0]}' is missing; send a table with {', '.join(wanted)}")
        if len(frame) == 0:
            raise DriftworkError("the table has no rows; send at least one")
        if spec.time_unit == "iso" and frame[config.time].dtype.kind in "iuf":
            cure = "write times by ISO 8601, as pandas does with to_json(date_format='iso')"
            raise DriftworkError(f"column '{config.time}' holds numbers; {cure}")


def _levels(params: dict[str, Any]) -> tuple[float, ...]:
    """Return the levels of the requested quantiles."""
    levels = tuple(float(level) for level in params.get("quantiles", (0.05, 0.95)))
    if not all(0 < level < 1 for level in levels):
        raise DriftworkError(f"quantiles={list(levels)}: must be between 0 and 1")
    try:
        return distinct(levels)
    except ValueError as error:
        raise DriftworkError(f"quantiles={list(levels)}: {error}") from None


def _load_pyfunc(path: str) -> ServedTable:
    """Load the model from the folder of descriptions and weights; MLflow calls it first."""
    description = TableDescription.model_validate_json((Path(path) / DESCRIPTION).read_text(encoding="utf-8"))
    return ServedTable(served_model._load_pyfunc(path), description)
