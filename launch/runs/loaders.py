"""Build the data streams of a run's config."""

from launch.runs.config import RunConfig
from launch.runs.distributed import Ranks
from models.batch import Planner
from pipeline.reading.stream import Stream
from pipeline.sequence import Split
from pipeline.shards.manifest import Manifest
from pipeline.shards.storage import Place


def training(config: RunConfig, manifest: Manifest, ranks: Ranks, planner: Planner | None = None) -> Stream:
    """Return the stream of a rank; `planner` makes the plan of each batch."""
    return Stream(
        config.data, manifest, "train", config.observe.train, batch_size=config.train.batch_size,
        seed=config.train.seed, shuffle=True, rank=ranks.rank, world=ranks.world, workers=config.loader_workers,
        changes=config.augment, planner=planner,
    )  # fmt: skip


def evaluation(config: RunConfig, folder: Place, manifest: Manifest, split: Split, ranks: Ranks) -> dict[str, Stream]:
    """Return a stream for each scored ratio of observed frames, by its name in percent; masks and noise are fixed."""
    streams = {}
    for percent, observation in config.observe.evaluate.each(manifest.spec.length).items():
        streams[percent] = Stream(
            folder, manifest, split, observation, batch_size=config.evaluate.batch_size,
            seed=0, shuffle=False, rank=ranks.rank, world=ranks.world, workers=config.loader_workers,
        )  # fmt: skip
    return streams
