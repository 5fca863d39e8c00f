"""Settings of the data set `table`, a user's own series in CSV, Parquet or .npz files."""

from typing import Literal, Self

from pydantic import Field, model_validator

from driftwork.registry import Named
from pipeline.table_spec import TimeUnit

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PARQUET = (".parquet", ".pq")
ARRAYS = ".npz"
ENDINGS = (*CSV, *PARQUET, ARRAYS)
"""Endings of the names of a table's files, in upper or lower case."""


class TableConfig(Named):
    name: Literal["table"] = "table"
    """Data set: a table of the user's own series, as CSV, Parquet or .npz."""
    layout: Literal["long", "wide"] = "long"
    """Layout of the table. `long` has a row per value, with a column of channel names. `wide` has a row per time, with
    a column per channel."""
    series: str = "series"
    """Name of the column of series names. An .npz file without it is one series, named after the file."""
    time: str = "time"
    """Name of the column of times."""
    channel: str = "channel"
    """Name of the column of channel names in a long table."""
    value: str = "value"
    """Name of the column of values in a long table."""
    channels: tuple[str, ...] = ()
    """Names of the channels, in the order of the values; other channels are left out. Empty takes all channels, sorted
    by name: those of a long table's channel column, or all other columns of a wide table."""
    units: tuple[str, ...] = ()
    """Unit of each of `channels`, for the axes of figures and for results. Empty gives no units."""
    time_unit: TimeUnit = "iso"
    """Unit of the times. `iso` reads dates and times by ISO 8601, with a zone (converted to UTC) or without, and the
    timestamps of Parquet; the other units read numbers."""
    separator: str = Field(",", min_length=1, max_length=1)
    """Character between the columns of a CSV file."""
    missing: tuple[str, ...] = ("",)
    """Texts that stand for a missing value. With `NaN` among them, the number NaN is missing too; in an .npz file it
    always is."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """Observation model: `gaussian` for real values, `bernoulli` for values of 0 and 1."""
    group: str | None = None
    """Name of the column of groups, which are never divided between splits. Null makes each series its own group."""
    split: str | None = None
    """Name of the column with `train`, `val` or `test`. Null draws the split by a hash of the group."""
    static_numbers: tuple[str, ...] = ()
    """Names of columns with one number per series, such as an age. Empty uses none."""
    static_categories: tuple[str, ...] = ()
    """Names of columns with one category per series, which is encoded one-hot. Empty uses none."""
    window: float | None = Field(None, gt=0)
    """Length of a window, which becomes a sequence, in `time_unit` (in seconds for `iso`). Null makes each series one
    sequence."""
    stride: float | None = Field(None, gt=0)
    """Time between the starts of two windows, in the unit of `window`. Null starts a window where the last one ends."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        columns = [self.series, self.time, *self.attributes]
        columns += [self.channel, self.value] if self.layout == "long" else self.channels
        twice = {name for name in columns if columns.count(name) > 1}
        if twice or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"column '{min(twice, default=self.channels)}' is named twice; name each column once")
        if self.units and len(self.units) != len(self.channels):
            raise ValueError(f"units has {len(self.units)} entries, channels {len(self.channels)}; give one for each")
        if self.stride is not None and self.window is None:
            raise ValueError("stride needs a window; set window too")
        return self

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the columns with one value per series."""
        own = [column for column in (self.group, self.split) if column is not None]
        return (*own, *self.static_numbers, *self.static_categories)
