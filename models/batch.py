"""A batch of sequences, the input of every model. Shape legend, used everywhere:

B sequences, T times, D channels, H recurrent units, Z latent, S samples, K observation events, M solver steps.

Masks are of whole frames, [B, T], or of single entries, [B, T, D], where each channel of a table is observed at times
of its own. `frames_*` and `entries_*` give either form of both.
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
    """[B, T, D] float32; 0 where a frame or entry is not present."""
    present: Tensor
    """[B, T] bool: the frame exists (neither missing in the data nor padding); of a table [B, T, D]: the entry does."""
    observed: Tensor
    """Bool of the shape of `present`: the model observes the frame or entry; a subset of `present`."""
    weight: Tensor
    """[B] float32: 0 for sequences that only pad a rank to the size of the others; otherwise such that the mean over
    ranks of the weighted sums is the mean over all sequences of the step."""
    seed: Tensor
    """[B] int64: seed of the sequence's noise; depends on (run seed, epoch, key) alone."""
    keys: tuple[str, ...]
    """Name of each sequence, unique in its data set."""
    groups: tuple[str, ...] = ()
    """Song, speaker or trial that each sequence is a part of; only scoring reads it."""
    static: Tensor = torch.zeros(1, 0)
    """[B, S] float32, the static covariates of each sequence at unit scale; S is 0 where the data have none."""

    @property
    def entries(self) -> bool:
        """Whether masks are of entries, [B, T, D], as those of a table."""
        return self.observed.ndim == 3

    @property
    def frames_present(self) -> Tensor:
        """[B, T] bool: at least one channel of the frame is present."""
        return self.present.any(2) if self.entries else self.present

    @property
    def frames_observed(self) -> Tensor:
        """[B, T] bool: at least one channel of the frame is observed."""
        return self.observed.any(2) if self.entries else self.observed

    @property
    def entries_present(self) -> Tensor:
        """[B, T, D] bool: the entry is present."""
        return self.present if self.entries else self.present[..., None].expand_as(self.values)

    @property
    def entries_observed(self) -> Tensor:
        """[B, T, D] bool: the entry is observed."""
        return self.observed if self.entries else self.observed[..., None].expand_as(self.values)

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
