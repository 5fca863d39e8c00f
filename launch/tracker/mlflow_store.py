"""The interface to MLflow: create a store, begin or find a run in it, and write the run's messages to it.

No other module imports MLflow, and this one does so only when a store is opened, since the import takes seconds.
"""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from driftwork.errors import DriftworkError
from launch.tracker import store_uri, tags
from launch.tracker.failures import as_user_error, one_line
from launch.tracker.outbox import Kind, RefusedError
from launch.tracker.provenance import COMMIT_TAG, git_tags
from launch.tracker.system_metrics import SystemSampler

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)


class StoredRun:
    """A run in a store.

    `known` is the store's description of the run, None if the store did not answer. With `onwards`, metrics of steps
    that the store already has are dropped, and the run gets a new end time. Otherwise a finished run keeps its end
    time."""

    def __init__(
        self, client: "MlflowClient", uri: str, run_id: str, known: "Run | None", onwards: bool = False
    ) -> None:
        self.run_id = run_id
        self._client, self._uri, self._onwards = client, uri, onwards
        self._began_ms: int | None = known.info.start_time if known else None
        is_over = known is not None and known.info.status == "FINISHED" and not onwards
        self._ended_ms: int | None = known.info.end_time if known and is_over else None
        outputs = known.outputs.model_outputs if known and known.outputs else []
        self._model_id: str | None = outputs[-1].model_id if outputs else None
        self._last: dict[str, int] | None = None
        """Last step of each metric; None until the store has been read."""

    def deliver(self, kind: Kind, bodies: list[Any]) -> None:
        """Write messages of one kind; an `Outbox` calls it. Raises any error of MLflow, and `RefusedError` for a
        message that no store would accept."""
        from mlflow.exceptions import MlflowException

        try:
            if kind == "metric":
                self._metrics(bodies)
            else:
                for body in bodies:
                    getattr(self, f"_{kind}")(body)
        except MlflowException as error:
            if kind != "metric" and error.error_code == "INVALID_PARAMETER_VALUE":
                raise RefusedError(one_line(error)) from None
            raise

    def _metrics(self, points: list[list[Any]]) -> None:
        from mlflow.entities import Metric

        last = self._last
        if self._onwards:
            points, last = self._beyond_store(points)
        metrics = [
            Metric(key, value, timestamp, step, model_id=self._model_id) for key, value, step, timestamp in points
        ]
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)
        self._last = last

    def _beyond_store(self, points: list[list[Any]]) -> tuple[list[list[Any]], dict[str, int]]:
        """Return the points of steps beyond those in the store, and the resulting last steps. A resumed training
        repeats the metrics since its last checkpoint bit for bit, and MLflow would keep both."""
        last = self._last
        if last is None:
            last = {metric.key: metric.step for metric in self._client.get_run(self.run_id).data.to_proto().metrics}
        last, new = dict(last), []
        for key, value, step, timestamp in points:
            if step > last.get(key, -1):
                last[key] = step
                new.append([key, value, step, timestamp])
        return new, last

    def _params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(new), 100):  # MLflow allows at most this many params per request
            self._client.log_batch(self.run_id, params=new[start : start + 100])
        drifted = {key: value for key, value in params.items() if known.get(key, value) != value}
        self._tags({f"{tags.PARAM_DRIFT}.{key}": value for key, value in drifted.items()})

    def _tags(self, new: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        if new:
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in new.items()])

    def _dataset(self, body: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        # `mlflow.data`, with its classes for kinds of data sets, would load pandas.
        used = DatasetInput(Dataset(**body), [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
        self._client.log_inputs(self.run_id, [used])

    def _status(self, body: list[Any]) -> None:
        status, at = body
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status, self._ended_ms or at)

    def _artifact(self, body: list[str]) -> None:
        path, folder = body
        if not Path(path).exists():
            raise RefusedError(f"{path}: no longer exists")
        self._client.log_artifact(self.run_id, path, folder or None)

    def _model(self, body: list[Any]) -> None:
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        path, settings = Path(body[0]), body[1]
        if not path.exists():
            raise RefusedError(f"{path}: no longer exists")
        if self._model_id is None:
            experiment = self._client.get_run(self.run_id).info.experiment_id
            made = self._client.create_logged_model(
                experiment, path.name, self.run_id, params=settings, model_type=settings.get("name")
            )
            self._client.log_outputs(self.run_id, [LoggedModelOutput(made.model_id, 0)])
            self._model_id = made.model_id
        self._client.log_model_artifacts(self._model_id, str(path))
        self._client.finalize_logged_model(self._model_id, LoggedModelStatus.READY)

    def sample_system(self, record: Callable[[dict[str, float], int], None]) -> SystemSampler | None:
        """Call `record(values, step)` with values of this machine every few seconds, until the sampler is closed.

        The step is the run's age in seconds, so that a resumed run continues the series. Returns None if the age is not
        known.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._began_ms is None:
            return None
        began_s, monitor = self._began_ms / 1000, SystemMetricsMonitor(self.run_id, tracking_uri=self._uri)
        return SystemSampler(
            monitor.monitors, monitor.sampling_interval, lambda values: record(values, int(time.time() - began_s))
        )


def begin(uri: str, experiment: str, name: str, parent: str | None, about: Mapping[str, str]) -> StoredRun:
    """Begin a run with the tags `about`. Raises `DriftworkError` for an unreachable store or an unknown parent."""
    experiment_id = prepare_store(uri, experiment)
    client = connect(uri)
    with as_user_error(uri):
        from mlflow.tracking.context.git_context import GitRunContext
        from mlflow.tracking.context.registry import resolve_tags

        # MLflow's git context reads the folder of the main script, which for a console script is not the repository,
        # and records the remote's address, which may contain a password.
        all_tags = {**resolve_tags(ignore=[GitRunContext]), tags.HOST: socket.gethostname(), **git_tags(), **about}
        if parent is not None:
            client.get_run(parent)
            all_tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment_id, tags=all_tags, run_name=name)
    return StoredRun(client, uri, str(run.info.run_id), run)


def found(uri: str, run_id: str, *, onwards: bool) -> tuple[StoredRun, dict[str, str]]:
    """Return an existing run (see `StoredRun` for `onwards`), and tags that record the changes since it began.

    If the server does not answer now, no such tags are returned, and messages are sent later.

    Raises:
        DriftworkError: the store does not have the run, or is a file that cannot be read.
    """
    uri = store_uri.existing(uri)
    client = connect(uri)
    with as_user_error(uri):
        from mlflow.exceptions import RestException

        try:
            known = client.get_run(run_id)
        except Exception as error:
            answered = isinstance(error, RestException) and error.get_http_status_code() < 500
            if answered or store_uri.database(uri) is not None:
                raise
            refused = getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED")
            what = "refuses this user" if refused else "cannot be reached"
            logger.warning("tracking server %s %s, messages are kept: %s", uri, what, one_line(error))
            return StoredRun(client, uri, run_id, None, onwards), {}
    commit = git_tags().get(COMMIT_TAG)
    same = commit is None or commit == known.data.tags.get(COMMIT_TAG)
    run = StoredRun(client, uri, run_id, known, onwards)
    return run, {} if same else {tags.RESUMED_WITH_COMMIT: str(commit)}


def prepare_store(uri: str, experiment: str) -> str:
    """Create the store and the experiment if they are missing, and return the experiment's id.

    A file lock lets one process at a time do so: several that open a new SQLite file crash in MLflow's migration.
    Artifacts of a SQLite store are in `artifacts/` beside it.

    Raises:
        DriftworkError: the store cannot be reached or created.
    """
    uri = store_uri.absolute(uri)
    file = store_uri.database(uri)
    with as_user_error(uri):
        if file is None:
            return _experiment_id(connect(uri), experiment, None)
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            return _experiment_id(connect(uri), experiment, store_uri.artifact_root(file))


def find_run_folder(uri: str, run_id: str) -> Path:
    """Return the folder of a run.

    Raises:
        DriftworkError: the store or the run does not exist, or the run is not one of Driftwork's.
    """
    uri = store_uri.existing(uri)
    with as_user_error(uri):
        folder = connect(uri).get_run(run_id).data.tags.get(tags.RUN_FOLDER)
    if folder is None:
        raise DriftworkError(f"{uri}: run {run_id} has no tag {tags.RUN_FOLDER}; give a run of driftwork")
    return Path(folder)


def save_model(
    target: Path, *, loader: Path, code: list[Path], data: Path, columns: Iterable[str] | None,
    params: Mapping[str, str | int | list[float]], requirements: list[str],
) -> None:  # fmt: skip
    """Write a model that `mlflow models serve` and `mlflow.pyfunc.load_model` load, into an empty folder.

    `loader` is a module with `_load_pyfunc(path)`, which is called with the copy of the folder `data`; `code` are the
    packages that it imports. A request has a list in each of `columns`, or any columns if `columns` is None, and may
    have `params`, given here with their defaults. Nothing is pickled.
    """
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # otherwise it copies lock files of the working directory
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    schemas: list[Schema | None] = [None, None]  # MLflow drops columns that a schema does not have
    if columns is not None:
        # Of any type, since MLflow refuses 2 for a double; the loader's errors are also more specific.
        inputs = Schema([ColSpec(Array(AnyType()), name) for name in columns])
        schemas = [inputs, Schema([ColSpec(Array("double"), "times"), ColSpec(Array(Array("double")), "values")])]
    kinds = {str: "string", int: "long", list: "double"}
    known = [ParamSpec(k, kinds[type(v)], v, (-1,) if isinstance(v, list) else None) for k, v in params.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no example is given, since MLflow would run the model on it here
        pyfunc.save_model(
            str(target), loader_module=loader.stem, data_path=str(data), code_paths=[str(loader), *map(str, code)],
            signature=ModelSignature(*schemas, ParamSchema(known)), pip_requirements=requirements,
        )  # fmt: skip


def connect(uri: str) -> "MlflowClient":
    """Return a client whose calls fail within about a minute."""
    # MLflow's own patience is minutes per call. `Outbox` has the patience; the end of a run waits for a call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # otherwise it prints each migration of a new store
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # and errors that it also raises
    return MlflowClient(tracking_uri=uri)


def _experiment_id(client: "MlflowClient", name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # a server has no lock: another process may have been faster
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage != "active":
        raise DriftworkError(f"experiment '{name}' was deleted; restore it in MLflow or set tracking.experiment")
    return str(known.experiment_id)
