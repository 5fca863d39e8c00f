"""A stand-in for CUDA graphs on a CPU: calls are recorded with their tensors, and repeated on the same memory.

As in a graph, a replay executes only the recorded operations: a buffer that was not written has the values of an
earlier call.
"""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Recorded(TorchDispatchMode):
    """A recording of torch operations. A call of the recording replays them."""

    def __init__(self, work, device):
        super().__init__()
        self.calls = []
        work()
        with self:
            work()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.calls.append((function, args, kwargs or {}, out))
        return out

    def __call__(self):
        for function, args, kwargs, out in self.calls:
            _overwrite(out, function(*args, **kwargs))


def _overwrite(out, again):
    """Write the results of a repeated call into the memory of the first one's."""
    if isinstance(out, Tensor) and again is not out:
        out.copy_(again)
    elif isinstance(out, list | tuple):
        for one, other in zip(out, again, strict=True):
            _overwrite(one, other)
