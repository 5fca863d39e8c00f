"""An exponential moving average of the weights, which is scored in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Average a <- k a + (1 - k) w after every update, from a = w before training.

    After the n-th update k = min(decay, (1 + n) / (10 + n)), so that a short training does not average its initial
    weights. Every rank holds all of it: the weights are the same on all ranks after an update, and so it is too.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.weights, self.decay = list(module.parameters()), decay
        self.restart()

    def restart(self) -> None:
        """Forget all updates: the average is the weights as they are."""
        self.updates = 0
        self.mean = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an update."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, w in zip(self.mean, self.weights, strict=True):
            mean.lerp_(w, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the weights, and these back afterwards, bit for bit."""
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
