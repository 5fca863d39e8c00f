"""Capture a function's kernels once, so that later calls launch all of them together.

A captured function reads and writes fixed addresses. Arguments that change are copied there before a replay, and
results are valid until the next one.
"""

from collections.abc import Callable
from typing import Protocol

import torch


class CaptureError(RuntimeError):
    """Error for a function that cannot be captured, for example for lack of memory."""


def one_line(error: Exception) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


class Capture(Protocol):
    def __call__(self, work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """Run `work`, which must not wait for the device, and return a function that repeats its kernels."""
        ...


def cuda_graph(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Capture `work` as a CUDA graph and return the replay."""
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
"""Capture function by type of device."""
