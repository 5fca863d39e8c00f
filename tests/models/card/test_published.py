"""Launches of a training step of published size, as counted on the simulated accelerator."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.process
@pytest.mark.slow
def test_few_launches_at_published_size():
    command = [sys.executable, "-m", "tests.models.card.published", "vsdn_vae_lakh", "vsdn_sde_lakh"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = {name: counts for name, *counts in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(command[-2:])
    assert all(launches < 500 for launches, _ in found.values()), found
    assert found["vsdn_vae_lakh"][1] < 5000  # kernels
