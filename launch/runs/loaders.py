"""Build the data streams of a run's config."""

import shutil
from pathlib import Path

from driftwork.sockets import problem_of_loaders
from launch.runs.config import RunConfig
from launch.runs.distributed import Ranks
from models.batch import Planner
from pipeline.reading.stream import Stream
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage import Place

_SHARED_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30
"""Free bytes of shared memory with which a default worker is started; one that finds none dies of a bus error."""


def training(
    config: RunConfig, manifest: Manifest, ranks: Ranks, planner: Planner | None = None, *, ahead: int = 0
) -> Stream:  # fmt: skip
    """Return the stream of the training split. `planner` makes the plan of each batch; `ahead` is the number of workers
    where the config leaves it open."""
    workers = ahead if config.loader_workers is None else config.loader_workers
    return Stream(
        config.data, manifest, "train", config.observe.train, batch_size=config.train.batch_size,
        seed=config.train.seed, shuffle=True, rank=ranks.rank, world=ranks.world, workers=workers, keep=True,
        changes=config.augment, planner=planner,
    )  # fmt: skip


def room_to_read_ahead() -> int:
    """Return the default number of workers of each rank: 1, or 0 where the system has no room for their sockets or
    batches.
    """
    shared = not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM
    return int(shared and problem_of_loaders() is None)


def evaluation(config: RunConfig, folder: Place, manifest: Manifest, split: Split, ranks: Ranks) -> dict[str, Stream]:
    """Return a stream for each scored ratio of observed frames, by its name in percent; masks and noise are fixed."""
    streams = {}
    for percent, observation in config.observe.evaluate.each(manifest.spec.length).items():
        streams[percent] = Stream(
            folder, manifest, split, observation, batch_size=config.evaluate.batch_size,
            seed=0, shuffle=False, rank=ranks.rank, world=ranks.world, workers=config.loader_workers or 0,
        )  # fmt: skip
    return streams
