"""Finished runs of an experiment, read back from the tracking store."""

from pathlib import Path
from typing import NamedTuple

from driftwork.errors import DriftworkError
from driftwork.files import require_room
from launch.checks import store
from launch.tracker import store_uri
from launch.tracker.failures import as_user_error
from launch.tracker.mlflow_store import connect


class TrackedRun(NamedTuple):
    run_id: str
    name: str
    started: int
    """Milliseconds since 1970."""
    metrics: dict[str, float]
    """Last value of each metric."""
    tags: dict[str, str]


def finished(uri: str, experiment: str) -> list[TrackedRun]:
    """Return the finished runs of an experiment, the oldest first.

    Raises:
        DriftworkError: no store answers within seconds, or the experiment does not exist; existing ones are listed.
    """
    uri = store_uri.existing(uri)
    store.require(uri)
    with as_user_error(uri):
        client = connect(uri)
        known = client.get_experiment_by_name(experiment)
        if known is None or known.lifecycle_stage != "active":
            names = sorted(each.name for each in client.search_experiments())
            raise DriftworkError(f"{uri} has no experiment '{experiment}'; choose one of {', '.join(names)}")
        runs: list[TrackedRun] = []
        token = None
        while True:
            page = client.search_runs(
                [known.experiment_id], "attributes.status = 'FINISHED'", order_by=["attributes.start_time ASC"],
                page_token=token,
            )  # fmt: skip
            runs += [
                TrackedRun(run.info.run_id, run.info.run_name, run.info.start_time, run.data.metrics, run.data.tags)
                for run in page
            ]
            token = page.token
            if not token:
                return runs


def fetch(uri: str, run_id: str, paths: tuple[str, ...], folder: Path) -> None:
    """Copy a run's artifacts at `paths`, files or folders, into the new folder `folder`. Missing ones are left out.

    Raises:
        DriftworkError: the store does not return them.
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True)
    try:
        with as_user_error(uri):
            client = connect(store_uri.absolute(uri))
            for entry in client.list_artifacts(run_id):
                if entry.path in paths:
                    client.download_artifacts(run_id, entry.path, str(folder))
    except DriftworkError:
        require_room(folder)  # MLflow reports a full disk as a missing file
        raise
