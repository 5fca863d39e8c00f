"""Run one trial of a sweep in a separate process: train it unless it is trained, then score it.

`python -m launch.sweeps.trial FOLDER SPLIT` writes its output to FOLDER/log.txt. The run folder records what is done,
so that a trial continues where it was, in the same run at the tracker, after any interruption.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from driftwork.command import run as run_command
from driftwork.lock import locked
from driftwork.processes import end_with_parent, python, search_path, sigterm_exits
from launch.job.signals import ctrl_z_stops_all, signals_ignored

LOG = "log.txt"
TRAINED, EVALUATED = "trained", "evaluated"
"""Keys of the run folder's record: whether training is complete, and the splits scored since."""

_LOCK = "trial.lock"
_PATIENCE_S = 120.0
"""Maximum time for a trial to save and end, in seconds."""
_AT_ONCE_S = 5.0
"""Maximum time for a trial to end without saving, in seconds."""
_OWN = re.compile(r"driftwork (?!doctor:)\w+: (?!.*; restart \d+ of \d+ from the last checkpoint$)(.*)")
"""Pattern of a command's error line. Warnings of the doctor, and crashes before a restart, did not make the trial
fail."""
_RAISED = re.compile(r"(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception)\b.*)")


class Outcome(NamedTuple):
    code: int
    """Exit code; 0 if the trial is done."""
    reason: str
    """Reason of the failure."""
    seconds: float


def main(argv: list[str]) -> int:
    """Run the process of a trial. Only one at a time works on a folder."""
    # These load torch, which the process that starts trials may not need.
    from launch.evaluation.evaluate import EvaluateConfig, evaluate
    from launch.runs import run_folder
    from launch.tracker.tracking import open_run
    from launch.training import setup, start

    folder, split = Path(argv[0]), argv[1]
    os.environ.setdefault("WDS_SECURE", "1")
    # A trial of a sweep that was just killed may still be cleaned up.
    with locked(folder / _LOCK, str(folder), "trial", _PATIENCE_S), sigterm_exits():
        record = run_folder.record_of(folder)
        if not record.get(TRAINED):
            with setup.folder_for([f"resume={folder}"]):
                code = start.start(folder)
            if code != 0:
                return code
            run_folder.remember(folder, **{TRAINED: True})
        config = run_folder.config_of(folder)
        experiment, name = run_folder.names(config)
        run_id = run_folder.record_of(folder).get("run_id")
        # Also open during scoring, so that a trial that is killed or fails there is marked so.
        with open_run(config.tracking, experiment=experiment, run_name=name, run_folder=folder, tags={}, run_id=run_id):
            evaluate(folder, EvaluateConfig(split=split, ranks=config.ranks))
        run_folder.remember(folder, **{EVALUATED: sorted({split, *record.get(EVALUATED, [])})})
    return 0


def run(folder: Path, split: str, threads: int, directory: Path, variables: dict[str, str]) -> Outcome:
    """Run a trial in a separate process, started in `directory`, and wait for it.

    An exception here, in particular by Ctrl-C or SIGTERM, ends the trial before it is passed on.

    Args:
        threads: number of threads of each rank.
        variables: environment variables in addition to those of this process, which may be on another machine.
    """
    began, log = time.monotonic(), folder / LOG
    try:
        start = log.stat().st_size if log.exists() else 0
        code = _watched(python("-m", "launch.sweeps.trial", str(folder), split), log, threads, directory, variables)
        with log.open("rb") as handle:
            handle.seek(start)
            reason = _reason(handle.read().decode(errors="replace"), code) if code else ""
    except OSError as error:
        code, reason = 1, str(error)
    return Outcome(code, reason, time.monotonic() - began)


def _watched(command: list[str], log: Path, threads: int, directory: Path, variables: dict[str, str]) -> int:
    """Return the exit code of the command, which is ended before an exception here is passed on."""
    with log.open("ab") as sink:
        process = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **search_path(), **variables, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            start_new_session=True, preexec_fn=end_with_parent,  # the sweep passes Ctrl-C on, once
        )  # fmt: skip
    try:
        with ctrl_z_stops_all():
            while process.poll() is None:
                time.sleep(0.2)  # not in wait(), which Ray's cancelling of a task does not interrupt
        return process.returncode
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the process save and end; a Ctrl-C meanwhile ends it at once."""
    try:
        with signals_ignored(signal.SIGTERM):  # launchers tend to send it twice
            process.terminate()
            process.wait(_PATIENCE_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        with signals_ignored():
            process.send_signal(signal.SIGINT)  # which it passes on to its ranks
            with suppress(subprocess.TimeoutExpired):
                process.wait(_AT_ONCE_S)
            process.kill()
            process.wait()


def _reason(text: str, code: int) -> str:
    """Return a trial's own error: the first one, since later ranks only report that another has ended."""
    for pattern in (_OWN, _RAISED):
        for line in text.splitlines():
            found = pattern.match(line)
            if found:
                return found[1]
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    raise SystemExit(run_command("trial", main, sys.argv[1:]))
