"""The version of the source code that made a run."""

import subprocess
from pathlib import Path

from launch.tracker.tags import GIT_DIRTY

COMMIT_TAG = "mlflow.source.git.commit"


def git_tags() -> dict[str, str]:
    """Return the commit of this source tree, and whether tracked files differ from it; empty outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {COMMIT_TAG: described.removesuffix("-dirty"), GIT_DIRTY: str(described.endswith("-dirty")).lower()}
