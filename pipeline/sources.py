"""Where a data set is added: its config in the union, its reader in the table."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from pipeline.lakh import Lakh, LakhConfig
from pipeline.mocap import Mocap, MocapConfig
from pipeline.sequence import Reader

DatasetConfig = Annotated[LakhConfig | MocapConfig, Field(discriminator="name")]

READERS: dict[str, Callable[..., Reader]] = {"lakh": Lakh, "mocap": Mocap}


def reader(config: DatasetConfig) -> Reader:
    return READERS[config.name](config)
