"""Log a run to the tracker: rank 0 opens the run, calls a few methods, and closes it with its final status.

`NullTracker` has the same methods for other ranks and for `uri=null`. A tracker that fails in the middle of a run does
not stop the training, and no method waits for it: messages that it has not accepted are kept in the run folder, and
sent when it answers again or when the run is next opened.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from driftwork.config_base import Config
from driftwork.processes import TERMINATED, sigterm_exits
from launch.job.signals import signals_ignored
from launch.tracker import mlflow_store, store_uri
from launch.tracker.mlflow_store import StoredRun
from launch.tracker.outbox import Message, Outbox
from launch.tracker.store_uri import StoreUri
from launch.tracker.tags import RUN_FOLDER

UNSENT = "unsent.jsonl"
"""File in the run folder with the messages that the tracker has not accepted yet."""


class TrackingConfig(Config):
    uri: StoreUri | None = Field(default_factory=store_uri.default)
    """Tracking store: `sqlite:///FILE`, relative to the working folder, or `http://HOST:PORT`. By default it is the one
    that MLFLOW_TRACKING_URI names, or else `sqlite:///runs/mlflow.db`. Null tracks nothing."""

    experiment: str | None = None
    """MLflow experiment that holds the run. Null takes the name of the data folder."""

    run_name: str | None = None
    """Name of the run in the dashboard. Null builds a name from the model and the seed."""

    parent: str | None = None
    """MLflow id of the run that this run is nested under. Null nests it under none."""


class StoreConfig(Config):
    """Tracking store of a command that opens runs."""

    uri: StoreUri | None = None
    """Tracking store of the run, as `sqlite:///FILE` or `http://HOST:PORT`. Null takes the store that the run was
    written to. A run that is named by its id is looked up here, or in the default store."""


class OfStore(Config):
    tracking: StoreConfig = StoreConfig()
    """MLflow store that the run is in."""


class Tracker(Protocol):
    """Methods to log a run. Only `open_run` fails if the tracker cannot be reached; these methods do not, and except
    for `flush` they return at once."""

    @property
    def run_id(self) -> str | None: ...

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters once. A param that the run already has with another value becomes the tag
        `param_drift.<key>`."""

    def tags(self, tags: Mapping[str, str]) -> None: ...

    def dataset(self, fields: Mapping[str, str]) -> None:
        """Name the data set that the run is trained on, as `launch.tracker.dataset` describes it."""

    def metrics(self, metrics: Mapping[str, float], step: int, at_ms: int | None = None) -> None:
        """Log values of a step, which were taken at `at_ms`, milliseconds since 1970; None means now."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, or a folder with its contents, to `folder` of the run's artifacts. It is read later, and must
        not be moved until the run is closed, or longer if the tracker is down."""

    def model(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Log a folder of `mlflow_store.save_model` as the run's model, like `artifact`. The dashboard lists it with
        its `settings` and later metrics. An earlier model of the run is replaced."""

    def flush(self) -> None:
        """Send all messages now, or leave them in the run folder."""


class NullTracker:
    run_id = None

    def params(self, params: Mapping[str, Any]) -> None: ...
    def tags(self, tags: Mapping[str, str]) -> None: ...
    def dataset(self, fields: Mapping[str, str]) -> None: ...
    def metrics(self, metrics: Mapping[str, float], step: int, at_ms: int | None = None) -> None: ...
    def artifact(self, path: Path, folder: str = "") -> None: ...
    def model(self, folder: Path, settings: Mapping[str, Any]) -> None: ...
    def flush(self) -> None: ...


class RunTracker:
    """A tracker of one run; made and closed by `open_run`."""

    def __init__(self, run: StoredRun, spool: Path) -> None:
        self.run_id = run.run_id
        self._outbox = Outbox(run.deliver, spool)

    def params(self, params: Mapping[str, Any]) -> None:
        self._outbox.add(Message("params", {key: str(value) for key, value in params.items()}))

    def tags(self, tags: Mapping[str, str]) -> None:
        self._outbox.add(Message("tags", dict(tags)))

    def dataset(self, fields: Mapping[str, str]) -> None:
        self._outbox.add(Message("dataset", dict(fields)))

    def metrics(self, metrics: Mapping[str, float], step: int, at_ms: int | None = None) -> None:
        at = now_ms() if at_ms is None else at_ms
        self._outbox.add(*(Message("metric", [key, float(value), step, at]) for key, value in metrics.items()))

    def artifact(self, path: Path, folder: str = "") -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        self._outbox.add(Message("artifact", [str(path.absolute()), folder]))

    def model(self, folder: Path, settings: Mapping[str, Any]) -> None:
        about = {key: str(value) for key, value in settings.items()}
        self._outbox.add(Message("model", [str(folder.absolute()), about]))

    def status(self, status: str) -> None:
        """Set the status: RUNNING, FINISHED, FAILED or KILLED."""
        self._outbox.add(Message("status", [status, now_ms()]))

    def flush(self) -> None:
        self._outbox.flush()

    def close(self) -> None:
        self._outbox.close()


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
    training: bool = False,
) -> Iterator[Tracker]:
    """Open a run, which ends FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM).

    While the run is open SIGTERM raises SystemExit, unless the caller has its own handler.

    Args:
        experiment, run_name: names, unless `cfg` has others.
        run_folder: existing folder, which stores messages that cannot be sent.
        rank: other ranks than 0 get a `NullTracker`, as all do if `cfg.uri` is null.
        run_id: id of an existing run to continue; None begins a new one.
        training: whether to sample the machine, and to add only metrics of later steps to a continued run.

    Raises:
        DriftworkError: the store cannot be reached or created, or does not have `run_id` or `cfg.parent`. With `run_id`
            a server may be unreachable: the run continues, and messages are sent later.
    """
    if cfg.uri is None or rank != 0:
        yield NullTracker()
        return
    uri, about = store_uri.absolute(cfg.uri), {**tags, RUN_FOLDER: str(run_folder.resolve())}
    with sigterm_exits():
        if run_id is None:
            run = mlflow_store.begin(uri, cfg.experiment or experiment, cfg.run_name or run_name, cfg.parent, about)
            tracker = RunTracker(run, run_folder / UNSENT)
        else:
            run, news = mlflow_store.found(uri, run_id, onwards=training)
            tracker = RunTracker(run, run_folder / UNSENT)
            tracker.tags({**about, **news})
            tracker.status("RUNNING")
            tracker.flush()
        sampler = None
        status = "FAILED"
        try:
            if training:
                sampler = run.sample_system(tracker.metrics)
            yield tracker
            status = "FINISHED"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == TERMINATED):
                status = "KILLED"
            raise
        finally:
            with signals_ignored():  # launchers tend to send a signal twice, and the status must be written
                if sampler is not None:
                    sampler.close()
                tracker.status(status)
                tracker.close()


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000
