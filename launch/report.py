"""`driftwork report EXPERIMENT out=DIR`: make the papers' tables and figures from tracked runs alone, and a page that
shows them with the models' outputs. The folder is also logged to the experiment, as the artifacts of a run `report`."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftwork.command import command, run, typed
from driftwork.config_base import parse
from driftwork.errors import DriftworkError, unwritable
from driftwork.files import replaced_folder, require_room
from driftwork.help import settings_of
from launch.reports import contents, rows, tracked_runs
from launch.reports.contents import MARKER, PAGE, RUNS
from launch.reports.rows import OUTPUTS
from launch.reports.tracked_runs import TrackedRun
from launch.scoring import tables
from launch.tracker import store_uri, tags
from launch.tracker.tracking import OfStore, TrackingConfig, open_run
from pipeline.sequence import Split

USAGE = """usage: driftwork report EXPERIMENT out=DIR [key=value ...]
  EXPERIMENT  Name of an MLflow experiment, as in `driftwork ui`; by default the data's name."""


class ReportConfig(OfStore):
    out: Path
    """Folder that the report is written to. An existing report is replaced."""
    split: Split = "test"
    """Split whose scores are reported."""


@command(USAGE, settings=settings_of(ReportConfig))
def main(argv: list[str]) -> int:
    if "=" in argv[0]:
        raise DriftworkError(f"the first argument is an experiment's name, as in: driftwork report lakh {argv[0]}")
    experiment, request = argv[0], parse(ReportConfig, argv[1:])
    out = request.out.absolute()
    _check_free(out)
    given = request.tracking.uri or store_uri.default()
    runs = tracked_runs.finished(given, experiment)
    uri, command = store_uri.absolute(given), typed("report", argv)
    with _in_place_of(out) as folder:
        groups, left_out = rows.read(uri, runs, folder / RUNS, request.split)
        if not groups:
            why = left_out[0] if left_out else "it has none"
            raise DriftworkError(f"experiment '{experiment}': no finished run can be reported: {why}")
        showcases = _showcases(uri, runs, folder / RUNS)
        made = contents.write(folder, experiment, request.split, command, groups, showcases, left_out)
    for table in made:
        tables.show(table)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"report: {out / PAGE}", flush=True)
    _log(uri, experiment, command, out)
    return 0


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DriftworkError(f"out={out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).exists():
        raise DriftworkError(f"out={out}: holds other files; give a new folder, an empty one, or that of a report")


@contextmanager
def _in_place_of(out: Path) -> Iterator[Path]:
    """Yield a folder to fill; on a clean exit it replaces `out`, which otherwise is unchanged."""
    try:
        with replaced_folder(out) as folder:
            require_room(folder)
            yield folder
    except OSError as error:
        raise unwritable(f"out={out}", error.strerror) from None


def _showcases(uri: str, runs: list[TrackedRun], folder: Path) -> list[TrackedRun]:
    """Fetch the parent runs that have pictures of several models side by side to `folder/RUN ID`, and return them."""
    found = []
    for parent in runs:
        if not {tags.MODEL, tags.REPORT} & parent.tags.keys():
            tracked_runs.fetch(uri, parent.run_id, (OUTPUTS,), folder / parent.run_id)
            if any((folder / parent.run_id).glob(f"{OUTPUTS}/*.png")):
                found.append(parent)
            else:
                shutil.rmtree(folder / parent.run_id)
    return found


def _log(uri: str, experiment: str, command: str, out: Path) -> None:
    about = {tags.REPORT: "true", tags.COMMAND: command}
    config = TrackingConfig(uri=uri, experiment=experiment)
    with open_run(config, experiment=experiment, run_name="report", run_folder=out, tags=about) as tracker:
        for path in sorted(out.iterdir()):
            tracker.artifact(path)


if __name__ == "__main__":
    raise SystemExit(run("report", main, sys.argv[1:]))
