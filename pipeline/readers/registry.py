"""Registry of all data sets. To add one, add its config and its reader here."""

from typing import Annotated, Any

from driftwork.registry import Named, Registry
from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.mocap import Mocap, MocapConfig
from pipeline.readers.rotating_mnist import RotatingMnist, RotatingMnistConfig
from pipeline.readers.simulated.bouncing_balls import BouncingBalls, BouncingBallsConfig
from pipeline.readers.simulated.double_ou import DoubleOu, DoubleOuConfig
from pipeline.readers.simulated.hopper import Hopper, HopperConfig
from pipeline.readers.tables.config import TableConfig
from pipeline.readers.tables.files import Table
from pipeline.readers.timit import Timit, TimitConfig
from pipeline.sequence import Reader

DATASETS = Registry[Reader | Table]("data set")
DATASETS.add(BouncingBallsConfig, BouncingBalls)
DATASETS.add(DoubleOuConfig, DoubleOu)
DATASETS.add(HopperConfig, Hopper)
DATASETS.add(MidiConfig, Midi)
DATASETS.add(MocapConfig, Mocap)
DATASETS.add(RotatingMnistConfig, RotatingMnist)
DATASETS.add(TableConfig, Table)
DATASETS.add(TimitConfig, Timit)

DatasetConfig = Annotated[Named, DATASETS]

EARLIER: dict[str, dict[str, Any]] = {"lakh": {"min_seconds": 0.0}}
"""Values of fields that are missing in an older recipe, by data set, where they differ from today's defaults."""


def reader(config: Named) -> Reader | Table:
    """Return the reader of a data set, or the `Table` of a table, whose reader exists only once its files are read."""
    return DATASETS.make(config)
