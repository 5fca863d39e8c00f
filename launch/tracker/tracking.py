"""What a run says about itself: opened by rank 0, spoken to in few verbs, and closed with the status it ended in.

`NullTracker` is the twin for other ranks and for `uri=null`. A tracker that dies in the middle of a run does not stop
the training, which waits for it in none of the verbs: what it has not taken is kept in the run folder, and sent when it
answers again or when the run is next opened.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from driftwork.config_base import Config
from launch.job.signals import TERMINATED, signals_ignored, sigterm_exits
from launch.tracker import mlflow_store, store_uri
from launch.tracker.mlflow_store import StoredRun
from launch.tracker.outbox import Message, Outbox
from launch.tracker.store_uri import StoreUri
from launch.tracker.tags import RUN_FOLDER

UNSENT = "unsent.jsonl"
"""In the run folder: what the tracker has not taken yet."""


class TrackingConfig(Config):
    uri: StoreUri | None = Field(default_factory=store_uri.default)
    """Tracking store: `sqlite:///FILE`, relative to the working folder, or `http://HOST:PORT`. By default it is what
    MLFLOW_TRACKING_URI names, or `sqlite:///runs/mlflow.db`. Null tracks nothing."""

    experiment: str | None = None
    """MLflow experiment that holds the run. Null takes the name of the data folder."""

    run_name: str | None = None
    """Name of the run in the dashboard. Null makes one of the model and the seed."""

    parent: str | None = None
    """MLflow id of the run that this run is nested under. Null nests it under none."""


class StoreConfig(Config):
    """Of a command that opens runs of a store."""

    uri: StoreUri | None = None
    """Tracking store of the run, as `sqlite:///FILE` or `http://HOST:PORT`. Null takes the store that the run was
    written to. A run that is named by its id is looked up here, or in the default store."""


class OfStore(Config):
    tracking: StoreConfig = StoreConfig()
    """MLflow store that the run is in."""


class Tracker(Protocol):
    """What a run may say about itself. Only `open_run` fails when the tracker is out of reach; these verbs do not, and
    but for `flush` they return at once."""

    @property
    def run_id(self) -> str | None: ...

    def params(self, params: Mapping[str, Any]) -> None:
        """Log once; a param that the run already has with another value becomes the tag `param_drift.<key>`."""

    def tags(self, tags: Mapping[str, str]) -> None: ...

    def dataset(self, fields: Mapping[str, str]) -> None:
        """Name the data set that the run is trained on, as `launch.tracker.dataset` describes it."""

    def metrics(self, metrics: Mapping[str, float], step: int, at_ms: int | None = None) -> None:
        """Log values of a step, which were taken at `at_ms`, milliseconds since 1970; None: now."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Copy a file, or a folder with all it holds, under `folder` of the run's artifacts. It is read later, and must
        stay where it is until the run is closed, or longer where the tracker is down."""

    def model(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """As `artifact`, a folder that `mlflow_store.save_model` wrote: the run's model, which the dashboard lists with
        its `settings` and what is measured from then on. The one that the run has already is replaced."""

    def flush(self) -> None:
        """Send now what was said, or leave it in the run folder."""


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
    """Speaks to one run; made and closed by `open_run`."""

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
        """RUNNING, FINISHED, FAILED or KILLED."""
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
    """A run that ends FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM); with `run_id`, that run goes on.

    `experiment` and `run_name` hold where `cfg` is silent; `run_folder` exists, and keeps what cannot be sent. While
    the run is open SIGTERM raises SystemExit, unless the caller has a handler of its own. Other ranks than 0, and
    `cfg.uri` of null, get a `NullTracker`. In a `training` the machine is sampled, and one that goes on with a run adds
    to a metric only what is of later steps than it has.

    Raises:
        DriftworkError: the store cannot be reached or created, or does not know `run_id` or `cfg.parent`. With `run_id`
            a server may be out of reach: the run goes on, and speaks to it later.
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
            with signals_ignored():  # launchers tend to send a signal twice; the status is written all the same
                if sampler is not None:
                    sampler.close()
                tracker.status(status)
                tracker.close()


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000
