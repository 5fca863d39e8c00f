"""Every model on a simulated accelerator: no step waits for the device, or copies anything to it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.card.pretended_card import ATTEMPTS


@pytest.fixture(scope="module")
def attempts():
    command = [sys.executable, "-m", "tests.models.card.pretended_card"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(attempt["case"], attempt["task"]): attempt for attempt in found}


RESULTS = 8
"""Largest number of tensors that `generate` reads: two of each of three interpolations, one of each of two drawings,
however many frames they draw."""


@pytest.mark.process
@pytest.mark.parametrize(("case", "task"), ATTEMPTS)
def test_model_never_waits_for_a_card(attempts, case, task):
    attempt = attempts[case, task]
    assert attempt["error"] is None
    if task == "generate":  # it gets batches of the host
        assert 0 < attempt["copies"]["from the card"] <= RESULTS
    else:
        assert attempt["copies"] == {}
    assert sum(attempt["launches"].values()) > 50  # it ran on the accelerator


@pytest.mark.process
def test_card_reports_each_fault(attempts):
    assert "DataDependentOutputException" in attempts["waits", "train"]["error"]
    assert "Expected all tensors to be on the same device" in attempts["is on two devices", "train"]["error"]
    assert attempts["copies", "train"]["copies"] == {"to the card": 1}
