"""Capture of a function's kernels, so that they are launched together again and again.

A captured function reads and writes fixed places in memory: what changes between calls is copied there before a replay,
and results are valid until the next one.
"""

from collections.abc import Callable
from typing import Protocol

import torch


class Capture(Protocol):
    def __call__(self, work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """Run `work`, which waits for nothing, and return a function that repeats what it did on the device."""
        ...


def cuda_graph(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture a CUDA graph."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()  # loads libraries and compiles kernels, which a capture must not
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):  # NCCL's threads go on
        work()
    return graph.replay


CAPTURES: dict[str, Capture] = {"cuda": cuda_graph}
"""How to capture on each type of device."""
