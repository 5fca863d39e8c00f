"""Start the ranks of a run whose folder is ready, and wait for them."""

from functools import partial
from pathlib import Path

from driftwork.command import typed
from driftwork.errors import DriftworkError
from launch.checks import glance
from launch.job import hosts, launcher
from launch.runs import run_folder
from launch.runs.config import RunConfig
from launch.training.checkpoint import last_step
from launch.training.supervisor import LEFT, supervised

_REFUSED = 2
"""Exit code of ranks that found a mistake in config, data or tracking."""


def start_new(folder: Path) -> int:
    """Train a run whose folder was just made, as `start` does. A launch that is refused leaves no folder."""
    try:
        code = start(folder)
    except DriftworkError:
        run_folder.withdraw_unbegun(folder)
        raise
    if code == _REFUSED:
        run_folder.withdraw_unbegun(folder)
    return code


def start(folder: Path) -> int:
    """Train the run in `folder` on all its ranks, and again after a crash, and return the exit code."""
    config, again = run_folder.config_of(folder), typed("train", [f"resume={folder}"])
    glance.before_training(1 if config.hostfile else config.ranks, config.tracking.uri, folder)
    print(f"training {config.model.name} on {config.data}, {config.ranks} rank(s), run folder {folder}", flush=True)
    if config.tracking.uri is not None:
        experiment = config.tracking.experiment or run_folder.names(config)[0]
        print(f"experiment '{experiment}' in {config.tracking.uri}", flush=True)
    try:
        code = supervised(folder, partial(_ranks, folder, config), config.restarts)
    except (KeyboardInterrupt, SystemExit):
        print(f"ended without saving. Continue from step {last_step(folder)} with: {again}", flush=True)
        raise
    if code == LEFT:
        print(f"interrupted, and saved. Continue with: {again}", flush=True)
    if code == 0:
        print(f"trained. Score it with: {typed('evaluate', [str(folder), 'split=test'])}", flush=True)
    return code


def _ranks(folder: Path, config: RunConfig) -> int:
    module, arguments = "launch.training.rank", [str(folder)]
    if config.hostfile is None:
        return launcher.start(module, arguments, config.ranks)
    shared = [folder, *([config.data] if isinstance(config.data, Path) else [])]
    return hosts.start(module, arguments, config.hostfile, config.hosts, shared)
