"""An exponential moving average of the weights, which is scored instead of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """The average a <- k a + (1 - k) w after every update, from a = w before training.

    After the n-th update k = min(decay, (1 + n) / (10 + n)), so that a short training does not average its initial
    weights. Every rank holds the whole average, which is equal on all ranks since the weights are.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.weights, self.decay = list(module.parameters()), decay
        self.restart()

    def restart(self) -> None:
        """Forget all updates and set the average to the current weights."""
        self.updates = 0
        self.mean = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after an update to the average."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, w in zip(self.mean, self.weights, strict=True):
            mean.lerp_(w, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the weights by the average within the context, and restore them afterwards bit for bit."""
        kept = [w.detach().clone() for w in self.weights]
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for w, value in zip(self.weights, values, strict=True):
            w.copy_(value)

    def state(self) -> dict[str, Any]:
        return {"updates": self.updates, "mean": self.mean}

    def load(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for mean, value in zip(self.mean, state["mean"], strict=True):
            mean.copy_(value)
