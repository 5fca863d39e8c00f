"""The MLflow seam: a run is opened by rank 0, spoken to in few verbs, and closed with the status it ended in.

MLflow is imported nowhere else, and only when a run is opened, because importing it takes seconds. `NullTracker` is the
twin for other ranks and for `uri=null`. A tracker that dies in the middle of a run does not stop the training.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock

from launch import store_uri
from launch.metric_writer import MetricWriter, Point
from launch.provenance import COMMIT_TAG, git_tags
from launch.signals import TERMINATED, signals_ignored, sigterm_exits
from launch.store_uri import StoreUri
from launch.system_metrics import SystemSampler
from models.config_base import Config
from models.errors import DriftworkError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

RUN_FOLDER_TAG = "driftwork.run_folder"
UNSENT = "metrics_unsent.jsonl"
"""In the run folder: metrics that the tracker has not taken yet."""


class TrackingConfig(Config):
    uri: StoreUri | None = "sqlite:///runs/mlflow.db"
    """Where runs are kept: `sqlite:///FILE` (relative to the working directory) or `http://HOST:PORT`; null: none."""

    experiment: str | None = None
    """The experiment that holds the run; null names it after the data."""

    run_name: str | None = None
    """The run's name in the dashboard; null names it after the model and the seed."""

    parent: str | None = None
    """MLflow run id of the run to nest this one under."""


class Tracker(Protocol):
    """What a run may say about itself. Only `open_run` fails when the tracker is out of reach; these verbs do not."""

    @property
    def run_id(self) -> str | None: ...

    def params(self, params: Mapping[str, Any]) -> None:
        """Log once; a param that the run already has with another value becomes the tag `param_drift.<key>`."""

    def tags(self, tags: Mapping[str, str]) -> None: ...

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Buffered: returns in microseconds."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, or a folder with all it holds, under `folder` of the run's artifacts."""

    def flush(self) -> None:
        """Send the buffered metrics now, or leave them in the spool file."""


class NullTracker:
    run_id = None

    def params(self, params: Mapping[str, Any]) -> None: ...
    def tags(self, tags: Mapping[str, str]) -> None: ...
    def metrics(self, metrics: Mapping[str, float], step: int) -> None: ...
    def artifact(self, path: Path, folder: str = "") -> None: ...
    def flush(self) -> None: ...


class MlflowTracker:
    """Writes to one run; made and closed by `open_run`."""

    def __init__(self, client: "MlflowClient", run_id: str, spool: Path) -> None:
        self.run_id = run_id
        self._client = client
        self._writer = MetricWriter(self._send, spool)

    def params(self, params: Mapping[str, Any]) -> None:
        self._attempt("params", lambda: self._log_params({key: str(value) for key, value in params.items()}))

    def tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in tags.items()]
        self._attempt("tags", lambda: self._client.log_batch(self.run_id, tags=new))

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._writer.add(metrics, step)

    def artifact(self, path: Path, folder: str = "") -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        self._attempt(f"artifact {path}", lambda: self._client.log_artifact(self.run_id, str(path), folder or None))

    def flush(self) -> None:
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()
        self._attempt(f"status {status}", lambda: self._client.set_terminated(self.run_id, status))

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(new), 100):  # the most params that MLflow takes in one request
            self._client.log_batch(self.run_id, params=new[start : start + 100])
        self.tags({f"param_drift.{key}": value for key, value in params.items() if known.get(key, value) != value})

    def _send(self, points: list[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.key, point.value, point.timestamp_ms, point.step) for point in points]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _attempt(self, what: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # as in MetricWriter: whatever the tracker's fault is, training goes on
            logger.warning("tracking fails, training goes on without %s: %s", what, _one_line(error))


@contextmanager
def open_run(
    cfg: TrackingConfig,
    *,
    experiment: str,
    run_name: str,
    run_folder: Path,
    tags: Mapping[str, str],
    rank: int = 0,
    run_id: str | None = None,
    system_metrics: bool = False,
) -> Iterator[Tracker]:
    """A run that ends FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM); with `run_id`, that run goes on.

    `experiment` and `run_name` hold where `cfg` is silent; `run_folder` exists, and keeps what cannot be sent. While
    the run is open SIGTERM raises SystemExit, unless the caller has a handler of its own. Other ranks than 0, and
    `cfg.uri` of null, get a `NullTracker`.

    Raises:
        DriftworkError: the store cannot be reached or created, or does not know `run_id` or `cfg.parent`.
    """
    if cfg.uri is None or rank != 0:
        yield NullTracker()
        return
    uri = store_uri.absolute(cfg.uri)
    experiment_id = prepare_store(uri, cfg.experiment or experiment)
    tags = {**tags, RUN_FOLDER_TAG: str(run_folder.resolve())}
    client = connect(uri)
    with as_user_error(uri):
        if run_id is None:
            run_id = _create_run(client, experiment_id, cfg.run_name or run_name, cfg.parent, tags)
        else:
            _reopen_run(client, run_id, tags)
    with sigterm_exits():
        tracker = MlflowTracker(client, run_id, run_folder / UNSENT)
        sampler = None
        status = "FAILED"
        try:
            if system_metrics:
                sampler = _sample_system(tracker, client, uri)
            yield tracker
            status = "FINISHED"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == TERMINATED):
                status = "KILLED"
            raise
        finally:
            with signals_ignored():  # launchers tend to send a signal twice; the status is written all the same
                if sampler is not None:
                    sampler.close()
                tracker.close(status)


def prepare_store(uri: str, experiment: str) -> str:
    """Create the store and the experiment where they are missing, and give the experiment's id.

    A file lock lets one process at a time do so: several that open a fresh SQLite file crash in MLflow's migration.
    Artifacts of a SQLite store lie in `artifacts/` beside it.

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
    """The folder that the run was written to.

    Raises:
        DriftworkError: the store or the run does not exist, or the run is not one of Driftwork's.
    """
    uri = store_uri.existing(uri)
    with as_user_error(uri):
        folder = connect(uri).get_run(run_id).data.tags.get(RUN_FOLDER_TAG)
    if folder is None:
        raise DriftworkError(f"{uri}: run {run_id} has no tag {RUN_FOLDER_TAG}; it was not written by driftwork")
    return Path(folder)


def connect(uri: str) -> "MlflowClient":
    """A client whose calls fail within a minute or so."""
    # MLflow's own patience is minutes per call. MetricWriter has the patience; a call made by training must be short.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces each migration of a new store
    return MlflowClient(tracking_uri=uri)


def _experiment_id(client: "MlflowClient", name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # behind a server there is no lock: another process may have been faster
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage != "active":
        raise DriftworkError(f"experiment '{name}' was deleted; restore it in MLflow or set tracking.experiment")
    return str(known.experiment_id)


def _create_run(
    client: "MlflowClient", experiment_id: str, name: str, parent: str | None, tags: Mapping[str, str]
) -> str:
    from mlflow.tracking.context.git_context import GitRunContext
    from mlflow.tracking.context.registry import resolve_tags

    # MLflow's git context asks the folder of the main script, which for a console script is not the repository, and
    # it records the remote's address, which may hold a password.
    tags = {**resolve_tags(ignore=[GitRunContext]), "driftwork.host": socket.gethostname(), **git_tags(), **tags}
    if parent is not None:
        client.get_run(parent)
        tags["mlflow.parentRunId"] = parent
    return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)


def _reopen_run(client: "MlflowClient", run_id: str, tags: dict[str, str]) -> None:
    known = client.get_run(run_id)
    commit = git_tags().get(COMMIT_TAG)
    if commit is not None and commit != known.data.tags.get(COMMIT_TAG):
        tags = {**tags, "driftwork.resumed_with_commit": commit}
    client.update_run(run_id, status="RUNNING")
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


def _sample_system(tracker: MlflowTracker, client: "MlflowClient", uri: str) -> SystemSampler:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(tracker.run_id, tracking_uri=uri)
    start_s = client.get_run(tracker.run_id).info.start_time / 1000

    def record(values: dict[str, float]) -> None:
        # The step is the run's age in seconds, so that a resumed run goes on where it was.
        tracker.metrics(values, step=int(time.time() - start_s))

    return SystemSampler(monitor.monitors, monitor.sampling_interval, record)


@contextmanager
def as_user_error(uri: str) -> Iterator[None]:
    """What MLflow, its database or the disk say becomes one line that names the store."""
    try:
        yield
    except DriftworkError:
        raise
    except Exception as error:
        raise DriftworkError(f"tracking store {uri}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
