"""The user's own names in predictions about a table: series, channels with units, and times as in the table."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.sequence import Sequence
from pipeline.table_spec import SECONDS, TableSpec


class Names(NamedTuple):
    """The table that sequences were prepared from."""

    table: TableSpec
    sequences: Iterable[Sequence]
    """The sequences, in the order of the predictions about them."""

    @property
    def dated(self) -> bool:
        """Whether times are instants, rather than numbers."""
        return self.table.time_unit == "iso"

    def times(self, sequence: Sequence) -> NDArray[Any]:
        """Return the times [T] of a sequence as in the table: datetime64[ns], in UTC if they have a zone, or numbers in
        its unit, up to rounding."""
        assert sequence.about is not None, "a sequence of a table has a description"
        start, seconds = sequence.about["start"], sequence.times
        if not self.dated:
            return np.asarray(float(start) + seconds / SECONDS[self.table.time_unit])
        whole = np.floor(seconds)  # apart, since 1e9 times the seconds of a year has no nanoseconds left
        since = whole.astype(np.int64) * 10**9 + np.rint((seconds - whole) * 1e9).astype(np.int64)
        return np.datetime64(str(start).removesuffix("Z"), "ns") + since.astype("timedelta64[ns]")


def written(times: NDArray[Any], names: Names) -> NDArray[Any]:
    """Return instants as text by ISO 8601, with no more digits than they need."""
    zone = "Z" if names.table.zone else ""
    return np.char.add(np.datetime_as_string(times), zone) if len(times) else times.astype(str)
