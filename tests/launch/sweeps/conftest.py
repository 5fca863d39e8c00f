"""A working folder for grids."""

import json

import pytest

from tests.datasets import write_rolls
from tests.launch.sweeps.sweeping import TINY


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Provide a working directory with prepared data; yields a function that writes a grid into it."""
    write_rolls(tmp_path / "rolls")
    monkeypatch.chdir(tmp_path)

    def write(text, **changed):
        shared = {"data": "rolls", "ranks": 1, "train.max_epochs": 1, **changed}
        shared = {key: value for key, value in shared.items() if f"{key}:" not in text}
        (tmp_path / "some.yaml").write_text(f"base: {TINY}\nset: {json.dumps(shared)}\n{text}")
        return "some.yaml"

    return write
