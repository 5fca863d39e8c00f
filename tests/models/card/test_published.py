"""Launches of a training step of published size, as counted on the simulated accelerator."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MOST = {"vsdn_vae_lakh": (500, 5000), "vsdn_sde_lakh": (460, 5000), "ode2vae_mocap": (300, 500)}
"""Numbers of launches and of kernels that a step stays below, forward and backward."""


@pytest.mark.process
@pytest.mark.slow
def test_few_launches_at_published_size():
    command = [sys.executable, "-m", "tests.models.card.published", *MOST]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {name: counts for name, *counts in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(MOST)
    for name, counts in found.items():
        assert all(count < most for count, most in zip(counts, MOST[name], strict=True)), found
