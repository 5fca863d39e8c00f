"""`import driftwork`: the results of the commands, for tables in memory."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import driftwork
from launch.tables import forecast, impute
from tests.launch.tables.own import run_on_hours
from tests.pipeline.tables.making import ward, write

pytestmark = pytest.mark.usefixtures("line")


@pytest.fixture(scope="module")
def rows():
    return ward(4)


@pytest.fixture(scope="module")
def run(tmp_path_factory, rows, line):
    return driftwork.load(run_on_hours(tmp_path_factory.mktemp("api"), rows))


class Stream:
    """A table that only exports an Arrow stream."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def by_command(main, run, rows, place, *settings):
    source, out = write(place / "new.parquet", rows), place / "out.parquet"
    assert main([str(run.folder), f"source={source}", f"out={out}", *settings]) == 0
    return parquet.read_table(out)


def test_imputation_is_that_of_the_command(tmp_path, run, rows):
    """The result is a table of the same kind as the given one."""
    expected = by_command(impute.main, run, rows, tmp_path)
    frame = pd.DataFrame(rows)
    table = pa.Table.from_pylist(rows)
    assert run.impute(table).equals(expected)
    assert run.impute(Stream(table)).equals(expected)
    pd.testing.assert_frame_equal(run.impute(frame), expected.to_pandas())
    pd.testing.assert_frame_equal(run.impute(frame.set_index(["series", "time"])), expected.to_pandas())
    observed = frame["pulse"].notna()
    assert np.array_equal(run.impute(frame)["pulse"][observed], frame["pulse"][observed])
    out = run.impute(write(tmp_path / "file.csv", rows), tmp_path / "filled.parquet", quantiles=(0.25,))
    assert parquet.read_table(out).column_names[-1] == "pulse_quantile_0.25"


def test_forecast_is_that_of_the_command(tmp_path, run, rows):
    expected = by_command(forecast.main, run, rows, tmp_path, "until=60", "every=90min")
    pd.testing.assert_frame_equal(run.forecast(pd.DataFrame(rows), until=60, every="90min"), expected.to_pandas())


def test_table_in_memory_is_prepared_as_its_file(tmp_path, rows):
    settings = {"layout": "wide", "time_unit": "h", "val": 0.2, "test": 0.2}
    frame = driftwork.prepare(pd.DataFrame(rows), tmp_path / "frame", **settings)
    file = driftwork.prepare(write(tmp_path / "ward.csv", rows), tmp_path / "file", **settings)
    shards = [path.name for path in frame.glob("*.tar")]
    assert len(shards) == 3
    assert all((frame / name).read_bytes() == (file / name).read_bytes() for name in shards)


def test_mistake_is_one_line(tmp_path, run, rows):
    with pytest.raises(
        driftwork.DriftworkError, match="a list is not a table; give a path, a pandas DataFrame or an Arrow"
    ):
        run.impute(rows)
    with pytest.raises(driftwork.DriftworkError, match="a file needs an output file; give out"):
        run.impute("ward.csv")
    with pytest.raises(driftwork.DriftworkError, match="quantile"):
        run.impute(pd.DataFrame(rows), quantile=0.5)
    with pytest.raises(AttributeError, match="module 'driftwork' has no attribute 'fit'"):
        driftwork.fit  # noqa: B018
