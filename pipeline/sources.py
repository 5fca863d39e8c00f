"""Where a data set is added: its config in the union, its reader in the table."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from pipeline.bouncing_balls import BouncingBalls, BouncingBallsConfig
from pipeline.lakh import Lakh, LakhConfig
from pipeline.mocap import Mocap, MocapConfig
from pipeline.rotating_mnist import RotatingMnist, RotatingMnistConfig
from pipeline.sequence import Reader
from pipeline.timit import Timit, TimitConfig

DatasetConfig = Annotated[
    BouncingBallsConfig | LakhConfig | MocapConfig | RotatingMnistConfig | TimitConfig, Field(discriminator="name")
]

READERS: dict[str, Callable[..., Reader]] = {
    "bouncing_balls": BouncingBalls,
    "lakh": Lakh,
    "mocap": Mocap,
    "rotating_mnist": RotatingMnist,
    "timit": Timit,
}


def reader(config: DatasetConfig) -> Reader:
    return READERS[config.name](config)
