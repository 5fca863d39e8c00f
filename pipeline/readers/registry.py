"""Where a data set is added: its config in the union, its reader in the table."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from pipeline.readers.bouncing_balls import BouncingBalls, BouncingBallsConfig
from pipeline.readers.midi import Midi, MidiConfig
from pipeline.readers.mocap import Mocap, MocapConfig
from pipeline.readers.rotating_mnist import RotatingMnist, RotatingMnistConfig
from pipeline.readers.timit import Timit, TimitConfig
from pipeline.sequence import Reader

DatasetConfig = Annotated[
    BouncingBallsConfig | MidiConfig | MocapConfig | RotatingMnistConfig | TimitConfig, Field(discriminator="name")
]

READERS: dict[str, Callable[..., Reader]] = {
    "bouncing_balls": BouncingBalls,
    "lakh": Midi,
    "midi": Midi,
    "mocap": Mocap,
    "rotating_mnist": RotatingMnist,
    "timit": Timit,
}

EARLIER: dict[str, dict[str, Any]] = {"lakh": {"min_seconds": 0.0}}
"""By data set: fields that an older recipe lacks, with the values that it was prepared by, where these are not the
defaults of today."""


def reader(config: DatasetConfig) -> Reader:
    return READERS[config.name](config)
