"""A batch of sequences, the input of every model. Shape legend, used everywhere:

B sequences, T times, D channels, H recurrent units, Z latent, S samples, K observation events, M solver steps.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """B sequences on padded axes of T times and D channels."""

    times: Tensor
    """[B, T] float64, seconds from the sequence's first frame; padding repeats the last time."""
    values: Tensor
    """[B, T, D] float32; 0 where a frame is not present."""
    present: Tensor
    """[B, T] bool: the frame exists (neither missing in the data nor padding)."""
    observed: Tensor
    """[B, T] bool: the model observes the frame; a subset of `present`."""
    weight: Tensor
    """[B] float32: 0 for sequences that only pad a rank to the size of the others; otherwise such that the mean over
    ranks of the weighted sums is the mean over all sequences of the step."""
    seed: Tensor
    """[B] int64: seed of the sequence's noise; depends on (run seed, epoch, key) alone."""
    keys: tuple[str, ...]
    """Name of each sequence, unique in its data set."""
    groups: tuple[str, ...] = ()
    """Song, speaker or trial that each sequence is a part of; only scoring reads it."""

    def first(self, frames: int) -> "Batch":
        """Return the same sequences cut to their first `frames` times."""
        names = ("times", "values", "present", "observed")
        return self._replace(**{name: getattr(self, name)[:, :frames] for name in names})

    def rows(self, which: slice) -> "Batch":
        """Return a slice of the sequences, unchanged."""
        return Batch._make(field[which] for field in self)

    def parts(self, count: int) -> "list[Batch]":
        """Divide the sequences into `count` batches, or into one for each sequence if there are fewer."""
        bounds = [len(self.weight) * n // count for n in range(count + 1)]
        return [self.rows(slice(a, b)) for a, b in pairwise(bounds) if a < b]

    def draws(self, seed: Tensor) -> "Batch":
        """Repeat the only sequence of this batch once for each of `seed` [S], so that each row draws its own noise."""
        S = len(seed)
        many = Batch._make(x.expand(S, *x.shape[1:]) if isinstance(x, Tensor) else x * S for x in self)
        return many._replace(seed=seed)

    def to(self, device: torch.device) -> "Batch":
        return self._replace(
            **{name: x.to(device, non_blocking=True) for name, x in self._asdict().items() if isinstance(x, Tensor)}  # type: ignore[arg-type]
        )
