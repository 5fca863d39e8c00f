"""Generate frames with a trained model: interpolations, forecasts, and draws from the prior."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftwork.errors import DriftworkError
from models.base import Forecaster, LatentDynamics, Model
from models.batch import Batch
from models.decisions import Neighbours, Rule, completed, joined
from models.generation import FramesAtTimes, ancestral, interpolate_at, times_at_rate
from pipeline.observe import ObservationConfig, key_seed, mask
from pipeline.reading.stream import collate
from pipeline.sequence import DataSpec, Sequence

_LONGEST = 10
"""Maximum length of generated sequences, as a multiple of the longest sequence of the data."""


class Generated(NamedTuple):
    """S draws of one sequence, with the data that they were generated from."""

    key: str | None
    """Key of the sequence; None for draws from the prior."""
    draws: NDArray[np.float32]
    """[S, Q, D] frames at n / rate seconds."""
    notes: NDArray[np.bool_] | None
    """[S, Q, D] notes decided from `draws`; None for data that are not binary."""
    truth: NDArray[np.float32] | None
    """[T, D] true frames at the data's own rate."""
    observed: NDArray[np.float64]
    """[K] times of the observed frames of `truth`, seconds."""
    given: float
    """Length of the given beginning, seconds: time of the first frame that was not given."""
    about: dict[str, Any] | None
    """Data needed to restore the raw form; for a draw from the prior, those of the split's first sequence."""


class FrameGenerator(NamedTuple):
    """A model with settings of generation; every method yields the outputs of one sequence after another."""

    model: Model
    observation: ObservationConfig
    """Pattern of observed frames in an interpolation, the same as in evaluation."""
    spec: DataSpec
    rate: float
    """Frames per second."""
    every: int
    """Distance between drawn frames, in frames."""
    samples: int
    """Number of latent draws behind an expectation."""
    particles: int
    """Number of particles of the filter behind a drawn frame, for a model with a filter."""
    seed: int
    decision: Rule = "expected_score"
    """Rule by which probabilities of binary frames become notes, over all frames that are not given."""

    def interpolations(self, sequences: Iterable[Sequence]) -> Iterator[Generated]:
        """Interpolate every frame from the observed ones: the mean of `samples` draws."""
        assert not isinstance(self.model, Forecaster), "a forecaster does not interpolate"
        for sequence in sequences:
            batch = self._batch(sequence, 1)
            times = times_at_rate(batch.times[0], self.rate)
            yield self._made(sequence, batch, batch, times, interpolate_at(self.model, batch, times, self.samples))

    def continuations(
        self, sequences: Iterable[Sequence], draws: int, given: float | None, length: float | None = None
    ) -> Iterator[Generated]:
        """Forecast the frames after the first `given` seconds, up to `length` seconds.

        Every `every`-th frame is drawn given those before it, and the rest interpolated from all of these.

        Args:
            given: None means half of the length or, if that is beyond the sequence's end, the whole sequence. A
                forecaster always gets the frames that it was built for.
            length: None means that of the sequence.
        """
        for sequence in sequences:
            batch = self._batch(sequence, draws)
            own = batch.times.shape[1]
            batch = batch if length is None else self._extended(batch, length)
            times = times_at_rate(batch.times[0], self.rate)
            first = self._first(batch, own, given)
            given_frames = torch.arange(batch.times.shape[1], device=batch.times.device) < first
            batch = batch.changed(
                values=torch.where(given_frames[:, None], batch.values, 0.0), present=batch.present & given_frames,
                observed=batch.present & given_frames,
            )  # fmt: skip
            known = batch
            if isinstance(self.model, Forecaster):
                filled = _forecast(self.model, batch, times)
            else:
                known, filled = self._follow(batch, times, range(first, batch.times.shape[1], self.every))
            made = self._made(sequence, batch, known, times, filled)
            yield made._replace(given=float(batch.times[0, first]))

    def priors(self, like: Sequence, draws: int, length: float | None = None) -> Iterator[Generated]:
        """Draw `length` seconds from the prior, by default as long as the sequence `like`."""
        batch = self._batch(like, draws, "prior")
        batch = batch if length is None else self._extended(batch, length)
        nothing = torch.zeros_like(batch.present)
        batch = batch.changed(values=torch.zeros_like(batch.values), present=nothing, observed=nothing)
        times, known = times_at_rate(batch.times[0], self.rate), batch
        if isinstance(self.model, Forecaster):
            seed = batch.seed.to(next(self.model.parameters()).device)
            frames = self.model.prior_draws(times.expand(draws, -1), seed, range(1))[1][0].cpu()
            filled = FramesAtTimes(frames, torch.zeros(frames.shape[:2], dtype=torch.bool))
        else:
            known, filled = self._follow(batch, times, range(0, batch.times.shape[1], self.every))
        yield self._made(like, batch, known, times, filled)._replace(key=None, truth=None)

    def _batch(self, sequence: Sequence, draws: int, name: str = "") -> Batch:
        """Return the sequence as `draws` rows, each with its own seed."""
        observed = mask(self.observation, sequence.times, sequence.mask, key_seed(0, "mask", 0, sequence.key))
        batch = collate([sequence], [observed], [1.0], [0], [np.zeros(0, np.float32)])
        seeds = [key_seed(self.seed, "generate", name or sequence.key, draw) for draw in range(draws)]
        return batch.draws(torch.tensor(seeds))

    def _extended(self, batch: Batch, length: float) -> Batch:
        """Return the batch cut to `length` seconds, or extended to it with absent frames."""
        frames = round(length / self.spec.interval)
        if not 2 <= frames <= _LONGEST * self.spec.length:
            most = _LONGEST * self.spec.length * self.spec.interval
            raise DriftworkError(f"seconds={length:g}: must be from {2 * self.spec.interval:g} to {most:g}")
        own = batch.times.shape[1]
        more = frames - own
        if more <= 0:
            return batch.first(frames)
        after = batch.times[:, -1:] + self.spec.interval * torch.arange(1, more + 1, device=batch.times.device)
        absent = torch.zeros_like(batch.present[:, :1]).expand(-1, more)
        return batch.changed(
            times=torch.cat([batch.times, after], 1), values=torch.nn.functional.pad(batch.values, (0, 0, 0, more)),
            present=torch.cat([batch.present, absent], 1), observed=torch.cat([batch.observed, absent], 1),
        )  # fmt: skip

    def _first(self, batch: Batch, own: int, given: float | None) -> int:
        """Return the number of the sequence's `own` frames that are given."""
        T = batch.times.shape[1]
        if isinstance(self.model, Forecaster):
            first = self.model.given
        elif given is None:
            first = own if own < T else T // 2
        else:
            first = min(own, int((batch.times[0] < given - 1e-6).sum()))  # up to rounding, frames before `given`
        if not 0 < first < T:
            raise DriftworkError(
                f"{batch.keys[0]}: its {float(batch.times[0, -1]):g} s leave no frame to "
                f"{'be given' if first == 0 else 'continue with'}; choose another seconds_given, or seconds"
            )
        return first

    def _follow(self, batch: Batch, times: Tensor, frames: range) -> tuple[Batch, FramesAtTimes]:
        """Return the batch with drawn frames, and the frames interpolated from them."""
        assert isinstance(self.model, LatentDynamics), "the model does not predict"
        drawn = ancestral(self.model, batch, list(frames), self.spec.binary, self.particles)
        return drawn, interpolate_at(self.model, drawn, times, self.samples)

    def _made(self, sequence: Sequence, batch: Batch, known: Batch, times: Tensor, filled: FramesAtTimes) -> Generated:
        """Collect the outputs of a sequence.

        Args:
            batch: batch in which the given frames are observed.
            known: batch in which the drawn frames are observed too.
        """
        notes = None
        if self.spec.binary:
            at = known.observed[0]
            neighbours = Neighbours.of(known.times[0, at], known.values[:, at], times, self.spec.interval)
            notes = joined(completed(*filled, self.decision), neighbours).numpy()
        observed = batch.times[0][batch.observed[0]].numpy()
        truth = sequence.values.astype(np.float32)
        draws = filled.frames.float().numpy()
        return Generated(sequence.key, draws, notes, truth, observed, 0.0, sequence.about)


def _forecast(model: Forecaster, batch: Batch, times: Tensor) -> FramesAtTimes:
    """Return the draws of a forecast, in which given frames are unchanged; all tensors are on the host."""
    there = batch.to(next(model.parameters()).device)
    drawn = model.draws(there, range(1), times.expand(len(batch.seed), -1))[1][0].cpu()
    at = torch.searchsorted(times, batch.times[0].contiguous()).clamp_max(len(times) - 1)
    kept = batch.observed[0] & (times[at] == batch.times[0])
    known = torch.zeros(drawn.shape[:2], dtype=torch.bool)
    known[:, at[kept]] = True
    return FramesAtTimes(drawn.index_copy(1, at[kept], batch.values[:, kept]), known)
