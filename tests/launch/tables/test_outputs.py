"""The files that `driftwork impute` and `driftwork forecast` write beside the user's own."""

import pytest

from driftwork.errors import DriftworkError
from launch.tables import forecast, impute
from tests.launch.tables.own import run_on_hours
from tests.pipeline.tables.making import ward, write

pytestmark = pytest.mark.usefixtures("line")

COMMANDS = [(impute.main, []), (forecast.main, ["until=+2", "every=1"])]


@pytest.fixture(scope="module")
def rows():
    return ward(5)


@pytest.fixture(scope="module")
def run(tmp_path_factory, rows, line):
    return run_on_hours(tmp_path_factory.mktemp("outputs"), rows)


@pytest.mark.parametrize(("main", "times"), COMMANDS)
@pytest.mark.parametrize("key", ["out", "figure"])
@pytest.mark.parametrize("source", ["new.csv", "", "n*.csv"])
def test_table_that_is_read_is_kept(tmp_path, run, rows, main, times, key, source):
    """The source is a file, a folder or a glob, and the output another path of its file."""
    table = write(tmp_path / "in" / "new.csv", rows)
    before = table.read_bytes()
    (tmp_path / "link").symlink_to(table.parent)
    outputs = {"out": f"{tmp_path}/ahead.csv", key: f"{tmp_path}/link/new.csv"}
    words = [f"{name}={path}" for name, path in outputs.items()]
    with pytest.raises(DriftworkError, match=f"^{key}=.*/link/new.csv: is the table that is read; give another file$"):
        main([str(run), f"source={tmp_path / 'in' / source}", *words, *times])
    assert table.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "link", "new.csv"]
