"""Batches from shards: batch k of rank r is a pure function of (seed, epoch, manifest).

The order of an epoch is one permutation of the whole split. A step takes the next `batch_size` sequences of it and
distributes them over the ranks in turn. Ranks are therefore disjoint, get equally many steps and together read the same
sequences for any world size. The last step of an epoch may be short: it is padded with sequences of weight 0. The state
of a stream is two integers, epoch and step.
"""

import atexit
import signal
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from driftwork import sockets
from driftwork.errors import DriftworkError
from driftwork.processes import end_with_parent
from models.batch import Batch, Planner
from pipeline.observe import ObservationConfig, key_seed, mask
from pipeline.reading.augment import NO_CHANGE, AugmentConfig, augment
from pipeline.reading.covariates import Covariates
from pipeline.sequence import Sequence, Split
from pipeline.shards.manifest import Manifest
from pipeline.shards.shard_files import read_sample
from pipeline.shards.storage import Place


class Request(NamedTuple):
    """Indices of the sequences that one rank reads for one step."""

    epoch: int
    samples: tuple[int, ...]
    """Positions in the split; those from index `real` on are padding."""
    real: int
    weight: float
    """Weight of each real sequence."""


class Stream:
    """Batches of one split for one rank.

    Args:
        folder, manifest: the prepared data set; batches can be read from a folder only, not from a URL.
        observation: pattern of observed frames.
        batch_size: number of sequences per step, over all ranks together.
        shuffle: draw a new order each epoch; otherwise the order is the manifest's.
        changes: random changes of sequences, drawn anew each epoch; by default none.
        planner: function that computes the plan of a batch in the process that makes the batch; by default none.
        workers: number of processes that read ahead; with 0 this process reads.
        keep: keep the workers from the first epoch until `close`, so that they read the next epoch ahead too; otherwise
            each epoch has its own.

    Raises:
        DriftworkError: the split is empty, the batch is smaller than the world size, the data do not allow the
            pattern or the changes, or the path TMPDIR is too long for workers.
    """

    def __init__(
        self, folder: Place, manifest: Manifest, split: Split, observation: ObservationConfig, *,
        batch_size: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1, workers: int = 0,
        keep: bool = False, changes: AugmentConfig = NO_CHANGE, planner: Planner | None = None,
    ) -> None:  # fmt: skip
        self.samples = sum(shard.samples for shard in manifest.of(split))
        if self.samples == 0:
            raise DriftworkError(f"{folder}: the {split} split is empty; prepare with a larger fraction for it")
        if batch_size < world:
            raise DriftworkError(f"batch_size={batch_size} is smaller than ranks={world}; raise it, or lower ranks")
        changes.check(manifest.spec, str(folder))
        observation.check(manifest.spec, str(folder))
        if workers:
            sockets.require(sockets.problem_of_loaders(), f"loader_workers={workers}")
        self.length = manifest.spec.length
        """Number of frames of the longest sequence."""
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world, self.workers = rank, world, workers
        self.hash = manifest.hash
        self.dataset = _Batches(folder, manifest, split, observation, changes, seed, planner)
        self._requests = _Requests() if keep and workers else None
        self._loader: DataLoader[Batch] | None = None
        self._ahead: Iterator[Batch] = iter(())
        """Batches of kept workers, from `_at` on and over the ends of epochs."""
        self._at: tuple[int, int] | None = None
        """Epoch and step of the next batch of `_ahead`."""

    @property
    def steps(self) -> int:
        """Number of steps per epoch, equal on every rank."""
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from `first_step` on. Workers that are kept read on into the next epoch; this
        ends the iterator of an earlier one."""
        if self._requests is None:
            return self._read(self._reader(self._requests_from(epoch, first_step)))
        if self._at != (epoch, first_step):
            following = (self._requests_from(later, 0) for later in count(epoch + 1))
            self._requests.current = chain(self._requests_from(epoch, first_step), chain.from_iterable(following))
            if self._loader is None:
                self._loader = self._reader(self._requests)
            self._ahead, self._at = self._read(self._loader), (epoch, first_step)
        return self._kept(epoch, first_step)

    def _requests_from(self, epoch: int, first_step: int) -> Iterator[Request]:
        """Yield the requests of an epoch from `first_step` on."""
        order = self.order(epoch)
        for at in range(first_step * self.batch_size, self.samples, self.batch_size):
            yield self._request(epoch, order[at : at + self.batch_size])

    def _kept(self, epoch: int, first_step: int) -> Iterator[Batch]:
        for step in range(first_step, self.steps):
            if self._at != (epoch, step):  # another epoch has begun since
                return
            self._at = None  # where reading fails
            batch = next(self._ahead)
            self._at = (epoch, step + 1) if step + 1 < self.steps else (epoch + 1, 0)
            yield batch

    def close(self) -> None:
        """End the workers that are kept."""
        loader, self._loader, self._ahead, self._at = self._loader, None, iter(()), None
        if loader is not None and loader._iterator is not None:
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]  # no public method does

    def _reader(self, requests: "Iterable[Request]") -> DataLoader[Batch]:
        kept = self._requests is not None
        return DataLoader(
            self.dataset, sampler=requests, batch_size=None, collate_fn=_as_it_is, num_workers=self.workers,
            persistent_workers=kept, worker_init_fn=_in_worker, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def _read(self, loader: DataLoader[Batch]) -> Iterator[Batch]:
        batches = iter(loader)
        if self.workers:
            _with_workers.add(batches)
        return batches

    def _request(self, epoch: int, dealt: NDArray[np.int64]) -> Request:
        mine = dealt[self.rank :: self.world]
        filling = -(-len(dealt) // self.world) - len(mine)
        samples = tuple(int(i) for i in mine) + (int(dealt[0]),) * filling
        return Request(epoch, samples, len(mine), self.world / len(dealt))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the positions of all sequences of the split in the order of this epoch."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.Generator(np.random.Philox(key=key_seed(self.seed, epoch, self.hash))).permutation(
            self.samples
        )


class _Requests(Sampler[Request]):
    """The requests of the current epoch, for a loader that outlasts it."""

    current: Iterable[Request] = ()

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[Request]:
        return iter(self.current)


class _Batches(Dataset[Batch]):
    """A data set that maps a Request to a Batch, held by each reading process."""

    def __init__(
        self, folder: Place, manifest: Manifest, split: Split, observation: ObservationConfig, changes: AugmentConfig,
        seed: int, planner: Planner | None,
    ) -> None:  # fmt: skip
        self.folder, self.spec, self.observation, self.seed = folder, manifest.spec, observation, seed
        self.changes, self.planner = changes, planner
        self.covariates = Covariates(manifest.spec, manifest.stats, str(folder))
        self.shards = manifest.of(split)
        self.ends = np.cumsum([shard.samples for shard in self.shards])

    def __getitem__(self, request: Request) -> Batch:
        sequences = [self._changed(self.read(i), request.epoch) for i in request.samples]
        masks = [self._observe(sequence, request.epoch) for sequence in sequences]
        weight = [request.weight if i < request.real else 0.0 for i in range(len(sequences))]
        seeds = [key_seed(self.seed, "noise", request.epoch, sequence.key) for sequence in sequences]
        static = [self.covariates.of(sequence.about) for sequence in sequences]
        return collate(sequences, masks, weight, seeds, static).planned(self.planner)

    def read(self, position: int) -> Sequence:
        shard = int(np.searchsorted(self.ends, position, side="right"))
        index = position - int(self.ends[shard] - self.shards[shard].samples)
        assert isinstance(self.folder, Path), "pipeline.shards.cache replaces a URL by a folder"
        path = self.folder / self.shards[shard].file
        try:
            with path.open("rb") as handle:
                return read_sample(handle, self.shards[shard], index, self.spec)
        except OSError as error:
            raise DriftworkError(f"{path}: cannot be read: {error.strerror}; run `driftwork verify`") from None

    def _changed(self, sequence: Sequence, epoch: int) -> Sequence:
        if self.changes == NO_CHANGE:
            return sequence
        return augment(self.changes, self.spec, sequence, key_seed(self.seed, "augment", epoch, sequence.key))

    def _observe(self, sequence: Sequence, epoch: int) -> NDArray[np.bool_]:
        seed = key_seed(self.seed, "mask", epoch, sequence.key)
        return mask(self.observation, sequence.times, sequence.mask, seed)


def collate(
    sequences: list[Sequence], observed: list[NDArray[np.bool_]], weight: list[float], seeds: list[int],
    static: list[NDArray[np.float32]],
) -> Batch:  # fmt: skip
    """Make a batch padded to the longest sequence: values with 0, masks with False, times with the last one.

    Masks are of frames [T], or of entries [T, D]. `static` holds the covariates [S] of each sequence."""
    B, T, D = len(sequences), max(len(s.times) for s in sequences), sequences[0].values.shape[1]
    times, values = np.empty((B, T)), np.zeros((B, T, D), np.float32)
    masks = (B, T, *sequences[0].mask.shape[1:])
    present, shown = np.zeros(masks, np.bool_), np.zeros(masks, np.bool_)
    for b, sequence in enumerate(sequences):
        n = len(sequence.times)
        times[b, :n] = sequence.times - sequence.times[0]
        times[b, n:] = times[b, n - 1]
        values[b, :n] = np.where(sequence.mask.reshape(n, -1), sequence.values, 0)
        present[b, :n], shown[b, :n] = sequence.mask, observed[b]
    return Batch(
        torch.from_numpy(times), torch.from_numpy(values), torch.from_numpy(present), torch.from_numpy(shown),
        torch.tensor(weight, dtype=torch.float32), torch.tensor(seeds, dtype=torch.int64),
        tuple(sequence.key for sequence in sequences), tuple(sequence.group for sequence in sequences),
        torch.from_numpy(np.stack(static)),
    )  # fmt: skip


_with_workers: weakref.WeakSet[Any] = weakref.WeakSet()
"""The iterators whose workers may still run."""


@atexit.register
def _end_workers() -> None:
    """End the workers of iterators that an error left unfinished.

    Without this, Python would send the workers SIGTERM, which they ignore, and wait for them forever."""
    for batches in list(_with_workers):
        batches._shutdown_workers()  # no public method does


def _in_worker(worker: int) -> None:
    """Ignore SIGTERM and Ctrl-C, which are often sent to all processes of a job, and end with the rank.

    A rank reacts to these signals after its step; a worker that died of them would cause an error before that."""
    end_with_parent(signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch  # the data set makes whole batches
