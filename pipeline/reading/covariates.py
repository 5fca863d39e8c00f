"""Static covariates of a sequence, as models read them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftwork.errors import DriftworkError
from pipeline.sequence import DataSpec
from pipeline.shards.stats import Stats


class Covariates:
    """The map from the static numbers in `about["static"]` of a sequence to covariates [S] float32.

    A number is standardised to mean 0 and standard deviation 1 over the training sequences. It becomes 0 if it is
    missing, or if it never changes in these. A category is one-hot.

    Raises:
        DriftworkError: the data were prepared before the statistics of static columns were kept; `where` names them.
    """

    def __init__(self, spec: DataSpec, stats: Stats, where: str) -> None:
        self.width = 0 if spec.table is None else spec.table.static_width
        self.mean, self.scale = np.zeros(self.width), np.ones(self.width)
        if spec.table is None or self.width == 0:
            return
        if stats.static_mean is None or stats.static_scale is None:
            raise DriftworkError(
                f"{where}: has no statistics of its static columns; prepare the data again, with another out"
            )
        numbers = np.repeat([s.categories is None for s in spec.table.static], [s.width for s in spec.table.static])
        scale = np.array(stats.static_scale)[numbers]
        self.mean[numbers] = np.array(stats.static_mean)[numbers]
        self.scale[numbers] = np.where(scale > 0, scale, np.inf)

    def of(self, about: dict[str, Any] | None) -> NDArray[np.float32]:
        if self.width == 0:
            return np.zeros(0, np.float32)
        assert about is not None, "a sequence of a table has a description"
        numbers = (np.array(about["static"], np.float64) - self.mean) / self.scale
        return np.nan_to_num(numbers, nan=0.0).astype(np.float32)
