"""A wide table in hours, and a run on it with the stand-in model of the fixture `line`."""

import pytest

from tests.launch.tables.own import run_on_hours
from tests.pipeline.tables.making import ward


@pytest.fixture(scope="module")
def rows():
    return ward(3)


@pytest.fixture(scope="module")
def run(tmp_path_factory, rows, line):
    return run_on_hours(tmp_path_factory.mktemp("hours"), rows)
