"""Where a data set is added: its config in the union, its reader in the table."""

from pipeline.lakh import Lakh, LakhConfig
from pipeline.sequence import Reader

DatasetConfig = LakhConfig  # with a second one: Annotated[LakhConfig | Other, Field(discriminator="name")]

READERS = {"lakh": Lakh}


def reader(config: DatasetConfig) -> Reader:
    return READERS[config.name](config)
