"""What a model of the VSDN family makes up: frames at times that the data do not have, and frames that follow from
nothing but the model.

The rows of a batch are draws of one sequence here: they share their times and differ in their seeds.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.base import LatentDynamics, Smoother, StateSpace
from models.batch import Batch
from models.parts.noise import keyed_normal, keyed_uniform

_COINS = 1 << 21
"""Stream of a sequence's noise that binary frames are drawn from; beyond those that models use."""
_PICKS = (1 << 22) + 1
"""That by which the draw of the latent is picked."""
_SAME = 1e-6  # seconds: a time of the data and one that is asked for are the same up to rounding


def asked_times(own: Tensor, rate: float) -> Tensor:
    """n / rate seconds for n = 0, 1, ..., up to the last of the data's times.

    Args:
        own: [T] float64, the data's times from 0 on. A time that is asked for and is one of these is this very number.
    """
    times = torch.arange(int(own[-1] * rate + _SAME * rate) + 1, dtype=own.dtype, device=own.device) / rate
    nearest = own[(times[:, None] - own).abs().argmin(1)]
    return torch.where((times - nearest).abs() < _SAME, nearest, times)


class Question(NamedTuple):
    """A batch in which further frames are asked for."""

    batch: Batch
    own: Tensor
    """[T] where the frames of the batch that it was made from stand in it."""
    asked: Tensor
    """[Q] where the asked times stand in it."""

    @classmethod
    def of(cls, batch: Batch, times: Tensor) -> "Question":
        """Put frames that are not there at those of `times` [Q] which the batch does not have."""
        B, _, D = batch.values.shape
        union = torch.cat([batch.times[0], times]).unique()
        own, asked = (torch.searchsorted(union, x.contiguous()) for x in (batch.times[0], times))
        values = batch.values.new_zeros(B, len(union), D).index_copy(1, own, batch.values)
        present, observed = (
            torch.zeros(B, len(union), dtype=torch.bool, device=own.device).index_copy(1, own, x)
            for x in (batch.present, batch.observed)
        )
        dense = batch._replace(times=union.expand(B, -1), values=values, present=present, observed=observed)
        return cls(dense, own, asked)


class Filled(NamedTuple):
    """Frames at asked times."""

    frames: Tensor
    """[B, Q, D] expectations; an observed frame is itself."""
    known: Tensor
    """[B, Q] bool: the frame was observed."""


def interpolate_at(model: LatentDynamics | Smoother, batch: Batch, times: Tensor, samples: int) -> Filled:
    """E[Y_t | all observations] at `times` [Q], within the batch's.

    At a time of the batch the answer is that of `model.interpolate(batch)` to the last bit, whatever else is asked.
    """
    question = Question.of(batch, times)
    observed = question.batch.observed[:, question.asked]
    known = torch.where(batch.observed[..., None], batch.values, model.interpolate(batch, samples).mean)
    if len(question.batch.times[0]) == len(question.own):
        return Filled(known[:, question.asked], observed)
    answer = model.interpolate(question.batch, samples).mean
    return Filled(answer.index_copy(1, question.own, known)[:, question.asked], observed)


def ancestral(model: LatentDynamics, batch: Batch, frames: list[int], binary: bool, particles: int) -> Batch:
    """Draw `frames` of the batch one after another, each given what is observed before it and the frames drawn so far.

    X_n is one draw of the generative model given these; where that takes a filter, one of its `particles`, picked by
    their weights. Y_n is drawn from P(Y_n | X_n, past) where frames are `binary`, channel by channel; elsewhere it is
    the expectation, without the noise of the observation. Every row draws for itself.

    Args:
        frames: increasing; later than all observed ones.

    Returns:
        The batch with these frames observed. What it held at them, and in all others that were not observed, is not
        read.
    """
    T, D = batch.values.shape[1:]
    coins = torch.special.ndtr(keyed_normal(batch.seed, T, D, stream=_COINS)).to(batch.values)
    picks = keyed_uniform(batch.seed, T, stream=_PICKS)
    values, present, observed = batch.values.clone(), batch.present.clone(), batch.observed.clone()
    carried = None
    for n in frames:
        past = batch._replace(values=values, present=present, observed=observed).first(n + 1)
        if isinstance(model, StateSpace):
            found = model.filter(past, particles, carried)
            predictive, carried = found.predictive, found.carried
        else:
            predictive = model.predict(past, 1)
        mean = predictive.likelihood.expectation(predictive.component(n, picks[:, n]))
        values[:, n] = (coins[:, n] < mean).to(mean) if binary else mean
        present[:, n] = observed[:, n] = True
    return batch._replace(values=values, present=present, observed=observed)
