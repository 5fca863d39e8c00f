"""Generate frames with a model of the VSDN family: at times without data, or drawn one after another.

The rows of a batch are draws of one sequence here: they share their times and differ in their seeds.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.base import LatentDynamics, Smoother, StateSpace
from models.batch import Batch
from models.parts.noise import keyed_normal, keyed_uniform

_COINS = 1 << 21
"""Stream of a sequence's noise from which binary frames are drawn; models use other streams."""
_PICKS = (1 << 22) + 1
"""Stream of a sequence's noise that selects the draw of the latent."""
_SAME = 1e-6  # seconds: a requested time this close to one of the data's is the same up to rounding


def times_at_rate(own: Tensor, rate: float) -> Tensor:
    """Return the times n / rate seconds for n = 0, 1, ..., up to the last of the data's times.

    Args:
        own: [T] float64, the data's times from 0 on. A requested time that equals one of these up to rounding is
            returned as exactly this number.
    """
    times = torch.arange(int(own[-1] * rate + _SAME * rate) + 1, dtype=own.dtype, device=own.device) / rate
    nearest = own[(times[:, None] - own).abs().argmin(1)]
    return torch.where((times - nearest).abs() < _SAME, nearest, times)


class BatchAtTimes(NamedTuple):
    """A batch with additional frames, not observed, at requested times."""

    batch: Batch
    own: Tensor
    """[T] indices of the original batch's frames."""
    requested: Tensor
    """[Q] indices of the requested times."""

    @classmethod
    def of(cls, batch: Batch, times: Tensor) -> "BatchAtTimes":
        """Insert absent frames at those of `times` [Q] that the batch does not have."""
        B, _, D = batch.values.shape
        union = torch.cat([batch.times[0], times]).unique()
        own, requested = (torch.searchsorted(union, x.contiguous()) for x in (batch.times[0], times))
        values = batch.values.new_zeros(B, len(union), D).index_copy(1, own, batch.values)
        present, observed = (
            x.new_zeros(B, len(union), *x.shape[2:]).index_copy(1, own, x) for x in (batch.present, batch.observed)
        )
        dense = batch.changed(times=union.expand(B, -1), values=values, present=present, observed=observed)
        return cls(dense, own, requested)


class FramesAtTimes(NamedTuple):
    """Frames at requested times."""

    frames: Tensor
    """[B, Q, D] expectations; at an observed frame, the observation itself."""
    known: Tensor
    """[B, Q] bool: the frame was observed; in a table [B, Q, D]: the entry was."""


def interpolate_at(model: LatentDynamics | Smoother, batch: Batch, times: Tensor, samples: int) -> FramesAtTimes:
    """Return E[Y_t | all observations] at `times` [Q], which lie within the batch's times.

    Batch and times are on the host, and so is the result; the model may be on a device.
    At a time of the batch the result equals that of `model.interpolate(batch)` to the last bit, whatever other times
    are requested.
    """
    extended = BatchAtTimes.of(batch, times)
    observed = extended.batch.observed[:, extended.requested]
    answer = model.interpolate(model.on_device(batch), samples).mean.cpu()
    known = torch.where(batch.entries_observed, batch.values, answer)
    if len(extended.batch.times[0]) == len(extended.own):
        return FramesAtTimes(known[:, extended.requested], observed)
    answer = model.interpolate(model.on_device(extended.batch), samples).mean.cpu()
    return FramesAtTimes(answer.index_copy(1, extended.own, known)[:, extended.requested], observed)


def ancestral(model: LatentDynamics, batch: Batch, frames: list[int], binary: bool, particles: int) -> Batch:
    """Draw `frames` of the batch one after another, each given the observations before it and the frames drawn so far.

    X_n is one draw of the generative model given these; for a model that needs a filter, it is one of the `particles`,
    selected by their weights. If frames are `binary`, Y_n is drawn from P(Y_n | X_n, past), channel by channel;
    otherwise it is the expectation, without observation noise. Every row draws independently.

    The batch is on the host, and so is the result. Which frames are drawn is known beforehand, so that a device goes
    from one to the next without waiting.

    Args:
        frames: indices in increasing order, later than all observed frames.

    Returns:
        The batch with these frames observed. Values that were not observed are not read.
    """
    T, D = batch.values.shape[1:]
    present, observed = batch.present.clone(), batch.observed.clone()
    values, seed = (x.to(next(model.parameters()).device) for x in (batch.values.clone(), batch.seed))
    coins = torch.special.ndtr(keyed_normal(seed, T, D, stream=_COINS)).to(values)
    picks = keyed_uniform(seed, T, stream=_PICKS)
    carried = None
    for n in frames:
        past = model.on_device(batch.changed(values=values, present=present, observed=observed).first(n + 1))
        if isinstance(model, StateSpace):
            found = model.filter(past, particles, carried)
            predictive, carried = found.predictive, found.carried
        else:
            predictive = model.predict(past, 1)
        mean = predictive.likelihood.expectation(predictive.component(n, picks[:, n]))
        values[:, n] = (coins[:, n] < mean).to(mean) if binary else mean
        present[:, n] = observed[:, n] = True
    return batch.changed(values=values.cpu(), present=present, observed=observed)
