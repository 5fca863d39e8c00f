"""Runs to generate from, and their sequences by key."""

import pytest

from tests.datasets import write_films, write_rolls, write_speech, write_walks
from tests.launch.generation.generated import MODEL, untrained


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("generate")


@pytest.fixture(scope="session")
def music(place):
    """Provide a run, and its sequences by key."""
    _, sequences = write_rolls(place / "rolls", train=(6,), val=(2,), test=(4,))
    return untrained(place / "music", "vsdn_vae", place / "rolls", "evaluate.samples=3"), sequences


@pytest.fixture(scope="session")
def speech(place):
    _, sequences = write_speech(place / "sounds", counts=(3000, 2000))
    run = untrained(place / "speech", "vsdn_vae", place / "sounds", MODEL.format("vsdn_sde", 0.0125))
    return run, sequences


@pytest.fixture(scope="session")
def motion(place):
    _, sequences = write_walks(place / "walks")
    return untrained(place / "motion", "ode2vae", place / "walks"), sequences


@pytest.fixture(scope="session")
def pictures(place):
    _, sequences = write_films(place / "films", count=2)
    return untrained(place / "pictures", "ode2vae", place / "films"), sequences
