"""The files that `driftwork impute` and `driftwork forecast` write beside the user's own."""

import errno

import pytest

from driftwork.errors import DriftworkError
from launch.figures import bands
from launch.tables import forecast, impute
from tests.pipeline.tables.making import write

pytestmark = pytest.mark.usefixtures("line")

COMMANDS = [(impute.main, []), (forecast.main, ["until=+2", "every=1"])]


@pytest.mark.parametrize(("main", "times"), COMMANDS)
@pytest.mark.parametrize("key", ["out", "figure"])
@pytest.mark.parametrize("source", ["new.csv", "", "n*.csv"])
def test_table_that_is_read_is_kept(tmp_path, run, rows, main, times, key, source):
    """The source is a file, a folder or a glob, and the output a link to its file."""
    table = write(tmp_path / "in" / "new.csv", rows)
    before = table.read_bytes()
    link = tmp_path / {"out": "link.csv", "figure": "link.png"}[key]
    link.symlink_to(table)
    outputs = {"out": tmp_path / "ahead.csv", key: link}
    words = [f"{name}={path}" for name, path in outputs.items()]
    with pytest.raises(DriftworkError, match=f"^{key}={link}: is the table that is read; give another file$"):
        main([str(run), f"source={tmp_path / 'in' / source}", *words, *times])
    assert table.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", link.name, "new.csv"]


@pytest.mark.parametrize(
    ("figure", "reason"),
    [
        ("f.xyz", "must be a file that ends in .png or .pdf or .svg"),
        ("f", "must be a file that ends in .png or .pdf or .svg"),
        ("folder.png", "must be a file that ends in .png or .pdf or .svg"),
        ("new.csv/f.png", "cannot be written: .*; free space there, or make it writable"),
    ],
)
@pytest.mark.parametrize(("main", "times"), COMMANDS)
def test_bad_figure_ends_command_before_its_work(tmp_path, run, rows, main, times, figure, reason):
    source = write(tmp_path / "new.csv", rows)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DriftworkError, match=f"^figure={tmp_path / figure}: {reason}$"):
        main([str(run), f"source={source}", f"out={tmp_path / 'out.csv'}", f"figure={tmp_path / figure}", *times])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "new.csv"]


def test_figure_in_new_folder_is_drawn(tmp_path, run, rows):
    source, figure = write(tmp_path / "new.csv", rows), tmp_path / "a" / "b" / "f.svg"
    assert impute.main([str(run), f"source={source}", f"out={tmp_path / 'out.csv'}", f"figure={figure}"]) == 0
    assert figure.exists()


def test_failed_drawing_is_one_line(tmp_path, run, rows, monkeypatch):
    def full(path, rows, title):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bands, "write", full)
    source, figure = write(tmp_path / "new.csv", rows), tmp_path / "f.png"
    with pytest.raises(
        DriftworkError, match=f"^figure={figure}: cannot be written: No space left on device; free space"
    ):
        impute.main([str(run), f"source={source}", f"out={tmp_path / 'out.csv'}", f"figure={figure}"])
