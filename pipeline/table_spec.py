"""Description of a prepared table, which maps numbers of the shards back to the user's columns, units and times."""

from typing import Literal

from driftwork.config_base import Config

TimeUnit = Literal["iso", "ns", "us", "ms", "s", "min", "h", "d"]
SECONDS: dict[TimeUnit, float] = {
    "iso": 1e-9, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
"""Seconds per unit of time. Times in ISO 8601 are stored in nanoseconds since 1970."""


class Static(Config):
    """A column with one value per series."""

    column: str
    """Name of the column."""
    categories: tuple[str, ...] | None
    """Categories in the order of their one-hot vector. Null for a column of numbers."""

    @property
    def width(self) -> int:
        """Number of static covariates that the column contributes: one, or one per category."""
        return 1 if self.categories is None else len(self.categories)


class TableSpec(Config):
    channels: tuple[str, ...]
    """Name of each of the D channels, in the order of the values."""
    units: tuple[str, ...]
    """Unit of each channel, as in the config. Empty where none was given."""
    binary: tuple[str, ...] = ()
    """Names of the channels with both of the values 0 and 1 and no others. Models use a Bernoulli likelihood for
    these."""
    layout: Literal["long", "wide"]
    """Layout of the user's table."""
    series: str
    """Name of the column of series names."""
    time: str
    """Name of the column of times."""
    time_unit: TimeUnit
    """Unit of the times in the user's table. `iso` for dates and times by ISO 8601."""
    zone: Literal["UTC"] | None
    """Zone to which times with a zone were converted. Null for times without a zone and for numbers."""
    static: tuple[Static, ...]
    """Columns with one value per series, in the order of `about["static"]` of a sequence. A column of categories takes
    one number per category."""

    @property
    def static_width(self) -> int:
        """Number of static covariates S of a sequence."""
        return sum(static.width for static in self.static)
