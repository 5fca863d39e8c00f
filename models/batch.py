"""What a model is given. Shape legend, used everywhere:

B sequences, T times, D channels, H recurrent units, Z latent, S samples, K observation events, M solver steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    times: Tensor
    """[B, T] float64, seconds from the sequence's first frame; padding repeats the last time."""
    values: Tensor
    """[B, T, D] float32; 0 where a frame is not present."""
    present: Tensor
    """[B, T] bool: the frame exists (neither missing in the data nor padding)."""
    observed: Tensor
    """[B, T] bool: the frame is shown to the model; a subset of `present`."""
    weight: Tensor
    """[B] float32: 0 for the filling that makes ranks even; otherwise such that the mean over ranks of the weighted
    sums is the mean over all sequences of the step."""
    seed: Tensor
    """[B] int64: what the sequence's noise is drawn from; depends on (run seed, epoch, key) alone."""
    keys: tuple[str, ...]
    groups: tuple[str, ...] = ()
    """Of each sequence the song, speaker or trial that it is a part of; only scores ask for it."""

    def first(self, frames: int) -> "Batch":
        """The same sequences cut to their first `frames` times."""
        names = ("times", "values", "present", "observed")
        return self._replace(**{name: getattr(self, name)[:, :frames] for name in names})

    def rows(self, which: slice) -> "Batch":
        """Some of the sequences, as they are."""
        return Batch._make(field[which] for field in self)

    def draws(self, seed: Tensor) -> "Batch":
        """The one sequence of this batch as a row for each of `seed` [S], which draws its own noise."""
        S = len(seed)
        many = Batch._make(x.expand(S, *x.shape[1:]) if isinstance(x, Tensor) else x * S for x in self)
        return many._replace(seed=seed)

    def to(self, device: torch.device) -> "Batch":
        return self._replace(
            **{name: x.to(device, non_blocking=True) for name, x in self._asdict().items() if isinstance(x, Tensor)}  # type: ignore[arg-type]
        )
