"""Scores of a table, counted by entry: every held-out or predicted entry weighs the same, in any channel.

Errors, CRPS and intervals are in units of each channel's standard deviation in the training split, so that channels of
different units can be added. Scores of single channels are in the units of the data, and have x and w [B, D].
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor

from launch.scoring.baselines import nearest, straight
from launch.scoring.metrics import ADDED, Score
from launch.scoring.ratio import Ratio
from launch.scoring.uncertainty import LEVELS, Columns, Found, bins, brier
from models.base import Forecast
from models.batch import Batch, last_observed
from models.parts.likelihoods import WithFrame
from models.predictive import Predictive
from pipeline.shards.manifest import Manifest

CHANNEL = "channel_"
"""Beginning of the names of scores of single channels."""

Guess = Callable[[Batch], Tensor]
"""Function from a batch to the frames [B, T, D] that a trivial baseline predicts."""


class Entries(NamedTuple):
    """Statistics of the channels of a table on its training split."""

    mean: Tensor
    """[D] mean of each channel, in units of the data."""
    scale: Tensor
    """[D] standard deviation, in units of the data; 1 for a channel that never changes."""
    binary: Tensor
    """[D] bool, whether all values are 0 or 1."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self | None:
        """Return the channels of a table; None for data whose masks are of whole frames."""
        table = manifest.spec.table
        if table is None:
            return None
        scale = torch.tensor(manifest.stats.scale, dtype=torch.float64)
        binary = [manifest.spec.likelihood == "bernoulli" or name in table.binary for name in table.channels]
        return cls(torch.tensor(manifest.stats.mean), torch.where(scale > 0, scale, 1.0).float(), torch.tensor(binary))

    def on(self, device: torch.device) -> "Entries":
        return Entries._make(x.to(device) for x in self)

    def persistence(self, batch: Batch) -> Tensor:
        """Return each channel's last value observed before each time, [B, T, D]; the channel's mean where there is
        none."""
        observed = batch.observed.to(torch.int32)
        return self._where(observed.cumsum(1) > observed, last_observed(batch))

    def nearest(self, batch: Batch) -> Tensor:
        """Return each channel's observed value that is nearest in time, the earlier of two; the channel's mean where it
        is never observed."""
        return self._where(batch.observed.any(1, keepdim=True), nearest(batch))

    def linear(self, batch: Batch) -> Tensor:
        """Interpolate each channel linearly in time between its observed values, constant before the first and after
        the last; the channel's mean where it is never observed."""
        return self._where(batch.observed.any(1, keepdim=True), straight(batch))

    def _where(self, known: Tensor, values: Tensor) -> Tensor:
        return torch.where(known, values, self.mean.to(values))

    def predicted(self, batch: Batch) -> Tensor:
        """Return the entries [B, T, D] whose prediction is scored: those observed after the first observed frame."""
        seen = batch.frames_observed
        return batch.observed & (seen.cumsum(1) > 1)[..., None]

    def held(self, batch: Batch, given: int | None) -> Tensor:
        """Return the persistence forecast [B, T, D] from the `given` first frames, or from all that is observed."""
        frames = torch.arange(batch.times.shape[1], device=batch.times.device)
        first = batch.observed if given is None else batch.observed & (frames < given)[:, None]
        return self.persistence(batch.changed(observed=first))

    def later(self, batch: Batch, given: int | None, horizons: tuple[int, ...], length: int) -> Columns:
        """Return for each horizon, and for the whole sequence, the entries [B, T, D] whose forecast is scored.

        Args:
            given: number of first frames that are given. None where they end with the last observed frame.
            length: number of frames of the longest sequence.
        """
        at = torch.arange(batch.times.shape[1], device=batch.times.device).expand_as(batch.times)
        start = torch.where(batch.frames_observed, at, -1).amax(1, keepdim=True) + 1 if given is None else given
        whole = length - (1 if given is None else given)
        later = batch.present & (at >= start)[..., None]
        within = {h: later & (at < start + h)[..., None] for h in sorted(horizons) if h < whole}
        return {str(h): scored for h, scored in (within | {whole: later}).items()}

    def forecast(self, forecast: Forecast, batch: Batch, columns: Columns, whole: bool) -> Found:
        """Score a forecast at the entries of each column: its mean, the path of the posterior's mean and, with `whole`,
        its distribution."""
        if whole:
            found = self.score(forecast.predictive, batch, columns)
        else:
            found = {
                column: {"mse_standardized": self._error(forecast.mean, batch, at)} for column, at in columns.items()
            }
        if forecast.path is not None:
            for column, at in columns.items():
                found[column]["mse_of_mean_path_standardized"] = self._error(forecast.path, batch, at)
        return found

    def _error(self, mean: Tensor, batch: Batch, scored: Tensor) -> Ratio:
        return _over(((mean - batch.values) / self.scale.to(mean.device)).square(), scored, (1, 2))

    def score(self, answer: Predictive | Tensor, batch: Batch, columns: Columns) -> Found:
        """Score an answer, a distribution or point predictions [B, T, D], at the entries of each column."""
        mean, truth = answer.mean if isinstance(answer, Predictive) else answer, batch.values
        own = self.on(truth.device)
        square, miss = (mean - truth).square(), brier(mean.clamp(0, 1), truth)
        real, crps, outer = own._distribution(answer, truth, columns)
        found: Found = {}
        for column, scored in columns.items():
            entries = {"mse_standardized": (square / own.scale.square(), scored)}
            channels = {"mse": (square, scored)}
            if crps is not None and real.any():
                at = scored & real
                entries["crps_standardized"] = (crps / own.scale, at)
                channels["crps"] = (crps, at)
            if outer is not None and real.any():
                at = scored & real
                entries |= {f"coverage_{level}_percent": (100.0 * (outer <= level), at) for level in LEVELS}
                channels["coverage_90_percent"] = (100.0 * (outer <= 90), at)
            scores = {name: _by_channel(score, mean, truth, scored) for name, score in ADDED.items()}
            if own.binary.any():
                at = scored & own.binary
                entries["brier"], channels["brier"] = (miss, at), (miss, at)
                scores |= bins(mean, truth, at) if isinstance(answer, Predictive) else {}
            scores |= {name: _over(x, at, (1, 2)) for name, (x, at) in entries.items()}
            scores |= {f"{CHANNEL}{name}": _over(x, at, (1,)) for name, (x, at) in channels.items()}
            found[column] = scores
        return found

    def _distribution(
        self, answer: Predictive | Tensor, truth: Tensor, columns: Columns
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the real-valued channels [D], and for each entry [B, T, D] its CRPS in units of the data and the level
        of the central interval that ends at the truth, percent; None for a score that the answer does not allow.
        """
        real = ~self.binary
        if isinstance(answer, Tensor):
            return real, (answer - truth).abs(), None
        if not isinstance(answer.likelihood, WithFrame) or not real.any():
            return real, None, None
        anywhere = torch.stack(list(columns.values())).any(0).any(-1)
        mixture, y = answer[anywhere].mixture(), truth[anywhere]
        crps, outer = torch.zeros_like(truth), torch.zeros_like(truth)
        crps[anywhere] = mixture.crps(y).to(crps)
        outer[anywhere] = (100.0 * (2.0 * mixture.cdf(y) - 1.0).abs()).to(outer)
        return real, crps, outer


def _by_channel(score: Score, mean: Tensor, truth: Tensor, scored: Tensor) -> Ratio:
    """Apply a score of frames to each channel as a separate sequence, and return the sum over the channels."""
    B, T, D = mean.shape
    alone = (x.transpose(1, 2).reshape(B * D, T) for x in (mean, truth, scored))
    mean, truth, scored = alone
    return Ratio._make(x.view(B, D).sum(1) for x in score(mean[..., None], truth[..., None], scored))


def _over(x: Tensor, scored: Tensor, dims: tuple[int, ...]) -> Ratio:
    """Return the mean of `x` [B, T, D] over the scored entries, of all channels or of each."""
    return Ratio(torch.where(scored, x, 0.0).double().sum(dims), scored.sum(dims))
