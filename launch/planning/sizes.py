"""Sizes of a training step of a model, counted on the CPU for one sequence of full length.

Counting runs in double precision, in which the loops over time take their eager form, as they do on a GPU. Numbers of
operations and of kernels do not depend on the precision; bytes are counted as in single precision.
"""

import copy
import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from launch.runs.config import RunConfig
from launch.runs.distributed import alone
from launch.runs.loaders import training
from launch.runs.run_folder import model_for
from models.base import TrainableModel
from models.batch import Batch
from pipeline.reading.stream import Request, Stream
from pipeline.shards.manifest import Manifest

_READ = 256
"""Number of sequences that are read to measure the loader."""


class Sizes(NamedTuple):
    """Sizes of a model and its data."""

    weights: int
    operations: int
    """Number of floating-point operations for a sequence of full length, forward and backward."""
    calls: int
    """Number of kernel calls in a step on sequences of full length, for any number of sequences."""
    kept: int
    """Bytes kept for the backward pass of a sequence of full length."""
    length: int
    """Frames of a sequence of full length."""
    bytes: float
    """Bytes of a sequence in its shard."""
    loader: float
    """Sequences per second that one process reads on this machine."""


class _Counter(TorchDispatchMode):
    """A counter of kernels, which are all operations except views, and of their floating-point operations."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # imports Triton, which is not needed elsewhere here

        super().__init__()
        self.formulas = flop_registry
        self.calls, self.operations = 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler at the first operation, for a second

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls += not func.is_view
        if func.overloadpacket in self.formulas:
            self.operations += self.formulas[func.overloadpacket](*args, **kwargs, out_val=result)
        return result


def measure(config: RunConfig, manifest: Manifest) -> Sizes:
    """Count the sizes of a config's model on its data, a folder on this machine."""
    stream = training(config.model_copy(update={"loader_workers": 0}), manifest, alone())
    read = [Request(0, (position,), 1, 1.0) for position in range(min(stream.samples, _READ))]
    started = time.process_time()
    for request in read:
        stream.dataset[request]
    loader = len(read) / (time.process_time() - started)
    one, model = longest(stream), model_for(config, manifest)
    calls, operations, kept = count(model, one)
    size = sum(shard.bytes for shard in manifest.of("train")) / stream.samples
    weights = sum(p.numel() for p in model.parameters())
    return Sizes(weights, operations, calls, kept, one.times.shape[1], size, loader)


def longest(stream: Stream) -> Batch:
    """Return the longest sequence of a stream as a batch."""
    frames = [count for shard in stream.dataset.shards for count in shard.frames]
    return stream.dataset[Request(0, (frames.index(max(frames)),), 1, 1.0)]


def operations_per_frame(model: TrainableModel, config: RunConfig, manifest: Manifest) -> float:
    """Count the floating-point operations of a frame, forward and backward, in the longest sequence."""
    one = longest(training(config.model_copy(update={"loader_workers": 0}), manifest, alone()))
    return count(copy.deepcopy(model), one)[1] / int(one.frames_present.sum())


def count(model: TrainableModel, batch: Batch) -> tuple[int, int, int]:
    """Return kernel calls, floating-point operations and kept bytes of forward and backward; the model stays in double
    precision."""
    model, batch = model.double(), batch._replace(values=batch.values.double())
    with _Counter() as counter:
        model(batch, 1.0).loss.mean().backward()
    return counter.calls, counter.operations, bytes_kept(model, batch)


def bytes_kept(model: TrainableModel, batch: Batch) -> int:
    """Return the bytes in single precision of all tensors that autograd keeps for the backward pass, without weights,
    each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        size = x.untyped_storage().nbytes()
        kept[x.untyped_storage().data_ptr()] = size // 2 if x.dtype == torch.float64 else size
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model(batch, 1.0).loss  # its graph holds the storages, so that no address is used twice
    assert loss.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in own)
