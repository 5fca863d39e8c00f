"""What a trained model is asked to make: frames between those that it sees, what comes after them, or all of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftwork.errors import DriftworkError
from models.base import Forecaster, LatentDynamics, Model
from models.batch import Batch
from models.decisions import Rule, completed
from models.generation import FramesAtTimes, ancestral, interpolate_at, times_at_rate
from pipeline.observe import key_seed
from pipeline.reading.stream import Request, Stream


class Made(NamedTuple):
    """S draws of one sequence, and what they were made from."""

    key: str | None
    """Of the sequence; None where nothing was given."""
    draws: NDArray[np.float32]
    """[S, Q, D], at n / rate seconds."""
    notes: NDArray[np.bool_] | None
    """[S, Q, D], of binary data what was decided from `draws`."""
    truth: NDArray[np.float32] | None
    """[T, D], at the data's own rate."""
    seen: NDArray[np.float64]
    """[K] seconds, of the frames of `truth` that the model saw."""
    given: float
    """Seconds that were given: where the first frame that was not begins."""
    about: dict[str, Any] | None
    """What leads back to the raw form; of a prior draw that of the split's first sequence."""


class Maker(NamedTuple):
    """A model and how it is asked; every method makes one thing of one sequence after another."""

    model: Model
    stream: Stream
    """The split, each sequence with the frames that evaluation observes."""
    binary: bool
    rate: float
    """Frames a second."""
    every: int
    """A drawn frame follows so many frames after the one before it."""
    samples: int
    """Latent draws behind an expectation."""
    particles: int
    """Of the filter behind a drawn frame, for a model that has one."""
    seed: int
    decision: Rule = "expected_score"
    """How probabilities of binary frames become notes, over all frames that are not given."""

    def interpolations(self, count: int) -> Iterator[Made]:
        """Every frame, from those that are observed: the mean of `samples` draws."""
        assert not isinstance(self.model, Forecaster), "it interpolates"
        for position in self.longest(count):
            batch = self._batch(position, 1)
            filled = interpolate_at(self.model, batch, times_at_rate(batch.times[0], self.rate), self.samples)
            yield self._made(position, batch, filled)

    def continuations(self, count: int, draws: int, seconds: float | None) -> Iterator[Made]:
        """What follows on the first `seconds` (null: half of the sequence; a forecaster: what it is made to see).

        Every `every`-th frame is drawn given those before it, and the rest interpolated from all of these.
        """
        for position in self.longest(count):
            batch = self._batch(position, draws)
            times = times_at_rate(batch.times[0], self.rate)
            first = self._first(batch, seconds)
            given = torch.arange(batch.times.shape[1], device=batch.times.device) < first
            batch = batch._replace(
                values=torch.where(given[:, None], batch.values, 0.0), present=batch.present & given,
                observed=batch.present & given,
            )  # fmt: skip
            if isinstance(self.model, Forecaster):
                made = _forecast(self.model, batch, times)
            else:
                made = self._follow(batch, times, range(first, batch.times.shape[1], self.every))
            yield self._made(position, batch, made)._replace(given=float(batch.times[0, first]))

    def priors(self, draws: int) -> Iterator[Made]:
        """As many frames as the longest sequence has, given nothing."""
        position = self.longest(1)[0]
        batch = self._batch(position, draws, "prior")
        nothing = torch.zeros_like(batch.present)
        batch = batch._replace(values=torch.zeros_like(batch.values), present=nothing, observed=nothing)
        times = times_at_rate(batch.times[0], self.rate)
        if isinstance(self.model, Forecaster):
            frames = self.model.prior_draws(times.expand(draws, -1), batch.seed, range(1))[1][0]
            made = FramesAtTimes(frames, torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device))
        else:
            made = self._follow(batch, times, range(0, batch.times.shape[1], self.every))
        yield self._made(position, batch, made)._replace(key=None, truth=None)

    def longest(self, count: int) -> list[int]:
        """Positions of the `count` longest sequences of the split; of equals the first."""
        frames = np.array([frames for shard in self.stream.dataset.shards for frames in shard.frames])
        return [int(position) for position in np.argsort(-frames, kind="stable")[:count]]

    def _batch(self, position: int, draws: int, name: str = "") -> Batch:
        """The sequence as `draws` rows, each with a seed of its own."""
        batch = self.stream.dataset[Request(0, (position,), 1, 1.0)]
        seeds = [key_seed(self.seed, "generate", name or batch.keys[0], draw) for draw in range(draws)]
        return batch.draws(torch.tensor(seeds)).to(next(self.model.parameters()).device)

    def _first(self, batch: Batch, seconds: float | None) -> int:
        """How many frames are given."""
        T = batch.times.shape[1]
        if isinstance(self.model, Forecaster):
            first = self.model.given
        else:
            # Up to rounding, frames before `seconds`.
            first = T // 2 if seconds is None else int((batch.times[0] < seconds - 1e-6).sum())
        if not 0 < first < T:
            raise DriftworkError(
                f"{batch.keys[0]}: its {float(batch.times[0, -1]):g} s leave no frame to "
                f"{'be given' if first == 0 else 'continue with'}; choose another seconds_given"
            )
        return first

    def _follow(self, batch: Batch, times: Tensor, frames: range) -> FramesAtTimes:
        assert isinstance(self.model, LatentDynamics), "it predicts"
        drawn = ancestral(self.model, batch, list(frames), self.binary, self.particles)
        return interpolate_at(self.model, drawn, times, self.samples)

    def _made(self, position: int, batch: Batch, filled: FramesAtTimes) -> Made:
        draws = filled.frames
        notes = completed(*filled, self.decision).cpu().numpy() if self.binary else None
        sequence = self.stream.dataset.read(position)
        truth = sequence.values.astype(np.float32)
        seen = batch.times[0][batch.observed[0]].cpu().numpy()
        return Made(sequence.key, draws.float().cpu().numpy(), notes, truth, seen, 0.0, sequence.about)


def _forecast(model: Forecaster, batch: Batch, times: Tensor) -> FramesAtTimes:
    """Draws of a forecast, in which what was given is itself."""
    drawn = model.draws(batch, range(1), times.expand(len(batch.seed), -1))[1][0]
    at = torch.searchsorted(times, batch.times[0].contiguous()).clamp_max(len(times) - 1)
    kept = batch.observed[0] & (times[at] == batch.times[0])
    known = torch.zeros(drawn.shape[:2], dtype=torch.bool, device=drawn.device)
    known[:, at[kept]] = True
    return FramesAtTimes(drawn.index_copy(1, at[kept], batch.values[:, kept]), known)
