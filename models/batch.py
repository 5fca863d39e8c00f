"""What a model is given. Shape legend, used everywhere:

B sequences, T times, D channels, H recurrent units, Z latent, S samples, K observation events, M solver steps.
"""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    times: Tensor
    """[B, T] float32, seconds from the sequence's first frame; padding repeats the last time."""
    values: Tensor
    """[B, T, D] float32; 0 where a frame is not present."""
    present: Tensor
    """[B, T] bool: the frame exists (neither missing in the data nor padding)."""
    observed: Tensor
    """[B, T] bool: the frame is shown to the model; a subset of `present`."""
    weight: Tensor
    """[B] float32: 1 for a sequence, 0 for the padding that makes ranks even."""
    seed: Tensor
    """[B] int64: what the sequence's noise is drawn from; depends on (run seed, epoch, key) alone."""
    keys: tuple[str, ...]

    def to(self, device: object) -> "Batch":
        return Batch(*(x.to(device) if isinstance(x, Tensor) else x for x in self))
