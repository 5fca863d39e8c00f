"""Paths of the checkout, of small configs and of sample data."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = Path(os.environ.get("DRIFTWORK_SAMPLES", ROOT / "../shared/data"))


def tiny(name: str) -> Path:
    """Return the config of a model that trains in seconds."""
    return ROOT / f"tests/launch/tiny_{name}.yaml"
