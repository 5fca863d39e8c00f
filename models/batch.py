"""A batch of sequences, the input of every model. Legend of shapes, used everywhere:

B sequences, T times, D channels, H recurrent units, Z latent, S samples, K observation events, M solver steps.

Masks are of whole frames, [B, T], or of single entries, [B, T, D], if each channel of a table is observed at its own
times. `frames_*` and `entries_*` return the form that their name states for either kind of mask.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Plan(NamedTuple):
    """Tensors that a model computes on the host from a batch's times and masks, before the batch moves to a device.

    Their lengths depend on the data. If a device computed them, the host would have to wait for it within a step."""

    grids: Any
    """Grids of the model: tensors in named tuples."""
    times: NDArray[np.float64]
    """[B, T] the times from which the plan was computed, on the host."""
    observed: NDArray[np.bool_]
    """The mask from which the plan was computed, on the host."""

    @classmethod
    def of(cls, batch: "Batch", grids: Any) -> "Plan":
        """Return the plan of a batch on the host."""
        # Copies: a reading process moves its tensors to shared memory, which frees what an array would look at.
        return cls(grids, batch.times.numpy().copy(), batch.observed.numpy().copy())

    def check(self, batch: "Batch") -> None:
        """Raise an error if the batch has changed since the plan was computed. This is checked only on a CPU, where the
        host need not wait."""
        if batch.times.device.type == "cpu":
            fits = np.array_equal(self.times, batch.times.numpy()) and np.array_equal(
                self.observed, batch.observed.numpy()
            )
            assert fits, "times or masks were changed after the plan was made; change them by Batch.changed"


Planner = Callable[["Batch"], Any]
"""Function from a batch on the host to the grids of a `Plan`; a process that makes batches receives it pickled."""


class Batch(NamedTuple):
    """B sequences on padded axes of T times and D channels."""

    times: Tensor
    """[B, T] float64, seconds from the sequence's first frame; padding repeats the last time."""
    values: Tensor
    """[B, T, D] float32; 0 where a frame or entry is not present."""
    present: Tensor
    """[B, T] bool: True where the frame exists (neither missing in the data nor padding); in a table [B, T, D]."""
    observed: Tensor
    """Bool of the shape of `present`: True where the model observes the frame or entry; a subset of `present`."""
    weight: Tensor
    """[B] float32 weights, such that the mean over ranks of the weighted sums is the mean over all sequences of the
    step. They are 0 for sequences that only pad a rank to the size of the others."""
    seed: Tensor
    """[B] int64 seed of each sequence's noise; it depends only on (run seed, epoch, key)."""
    keys: tuple[str, ...]
    """Name of each sequence, unique in its data set."""
    groups: tuple[str, ...] = ()
    """Song, speaker or trial that each sequence is a part of. Only scoring uses it."""
    static: Tensor = torch.zeros(1, 0)
    """[B, S] float32 static covariates of each sequence at unit scale; S is 0 if the data have none."""
    plan: Plan | None = None
    """Plan with the model's grids, if they were computed when the batch was made."""

    @property
    def entries(self) -> bool:
        """Whether masks are of entries, [B, T, D], as in a table."""
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

    def planned(self, planner: Planner | None) -> "Batch":
        """Return the batch, which is on the host, with its plan."""
        if planner is None or self.plan is not None:
            return self
        return self._replace(plan=Plan.of(self, planner(self)))

    def changed(self, **fields: Tensor) -> "Batch":
        """Return the batch with the given fields replaced and without its plan, which depends on them."""
        return self._replace(plan=None, **fields)  # type: ignore[arg-type]

    def first(self, frames: int) -> "Batch":
        """Return the same sequences cut to their first `frames` times."""
        names = ("times", "values", "present", "observed")
        return self.changed(**{name: getattr(self, name)[:, :frames] for name in names})

    def rows(self, which: slice) -> "Batch":
        """Return a slice of the sequences, unchanged."""
        return Batch._make(None if field is None else field[which] for field in self._replace(plan=None))

    def parts(self, count: int) -> "list[Batch]":
        """Divide the sequences into `count` batches, or into one per sequence if there are fewer sequences."""
        if count == 1:
            return [self]
        bounds = [len(self.weight) * n // count for n in range(count + 1)]
        return [self.rows(slice(a, b)) for a, b in pairwise(bounds) if a < b]

    def draws(self, seed: Tensor) -> "Batch":
        """Repeat the only sequence of this batch once per seed of `seed` [S], so that each row draws its own noise."""
        S = len(seed)
        repeated = (
            x.expand(S, *x.shape[1:]) if isinstance(x, Tensor) else x * S for x in self._replace(plan=None)[:-1]
        )
        return Batch._make([*repeated, None])._replace(seed=seed)

    def of_host(self) -> "Batch":
        """Return the batch with times and observed masks on the host, where its plan has them; for a batch without a
        plan, the host waits for a device."""
        if self.plan is None:
            return self.to(torch.device("cpu"))
        return self.changed(times=torch.from_numpy(self.plan.times), observed=torch.from_numpy(self.plan.observed))

    def double(self) -> "Batch":
        """Return the same sequences with values in double precision."""
        return self._replace(values=self.values.double(), static=self.static.double())

    def to(self, device: torch.device) -> "Batch":
        """Return the batch, and its plan, on a device. The copies do not block."""
        return moved(self, device)


def moved(fields: Any, device: torch.device) -> Any:
    """Return a named tuple with all tensors, also those of nested named tuples, on a device."""
    if isinstance(fields, Tensor):
        return fields.to(device, non_blocking=True)
    if hasattr(fields, "_fields"):
        return type(fields)._make(moved(x, device) for x in fields)
    return fields


def last_observed(batch: Batch) -> Tensor:
    """Return the values last observed strictly before each time, [B, T, D]; 0 before the first observation.

    They come from one frame or, if masks are of entries, from a frame per channel."""
    return frames_at(batch, _earlier(observed_around(batch)[0]))


def next_observed(batch: Batch, *, own: bool) -> Tensor:
    """Return the values first observed after each time, or at it if `own` is set, [B, T, D]; 0 after the last one.

    They come from one frame or, if masks are of entries, from a frame per channel."""
    _, after = observed_around(batch)
    return frames_at(batch, after if own else _later(after))


class Between(NamedTuple):
    """The values observed last before each time, and first after it (or at it, with `own`); in a table, of each
    channel."""

    left: Tensor
    """[B, T, D] values last observed before each time, or `right` if there are none yet; 0 if there is neither."""
    right: Tensor
    """[B, T, D] values first observed after each time, or `left` if there are none."""
    share: Tensor
    """[B, T, 1] or [B, T, D] fraction of the way from the left to the right values."""
    known: Tensor
    """Whether any value was observed before or after the time: bool, of the shape of `share`."""

    @property
    def line(self) -> Tensor:
        """[B, T, D] the straight line from `left` to `right`, constant before the first and after the last observed
        value."""
        return torch.lerp(self.left, self.right, self.share)

    @classmethod
    def of(cls, batch: Batch, *, own: bool) -> "Between":
        at, after = observed_around(batch)
        before, after = _earlier(at), after if own else _later(after)
        first, last = torch.where(before < 0, after, before), torch.where(after < 0, before, after)
        times = _times(batch)
        start, end = (times.gather(1, number.clamp_min(0)) for number in (first, last))
        share = torch.where(end > start, (times - start) / (end - start), 0.0).float()  # half-way is 0.5 exactly
        share = by_channel(share).to(batch.values)
        return cls(frames_at(batch, first), frames_at(batch, last), share, by_channel(first >= 0))


def time_since(batch: Batch, unit: float) -> Tensor:
    """Return log(1 + x), where x is the time since the last observation strictly before each time, in units of `unit`
    seconds.

    The shape is [B, T, 1] or, if masks are of entries, [B, T, D] with the time of each channel. Before the first
    observation x is the time since the start of the sequence."""
    before, _ = observed_around(batch)
    number, times = _earlier(before), _times(batch)
    last = torch.where(number >= 0, times.gather(1, number.clamp_min(0)), times[:, :1])
    return by_channel(((times - last) / unit).log1p()).to(batch.values.dtype)


def time_until(batch: Batch, unit: float, *, own: bool) -> Tensor:
    """Return log(1 + x), where x is the time until the first observation after each time, in units of `unit` seconds.

    If `own` is set, an observation at the time itself counts. The shape is [B, T, 1] or, if masks are of entries,
    [B, T, D] with the time of each channel. After the last observation x is the time until the end of the sequence."""
    _, after = observed_around(batch)
    number, times = after if own else _later(after), _times(batch)
    following = torch.where(number >= 0, times.gather(1, number.clamp_min(0)), times[:, -1:])
    return by_channel(((following - times) / unit).log1p()).to(batch.values.dtype)


def observed_around(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the indices of the last frame observed up to each time, and of the first frame observed from it on.

    An index is -1 if there is no such frame. At an observed frame both are its own index. Each tensor is [B, T] or, if
    masks are of entries, [B, T, D] with an index per channel."""
    T = batch.observed.shape[1]
    at = torch.arange(T, device=batch.observed.device).view(-1, *[1] * batch.entries)
    before = torch.where(batch.observed, at, -1).cummax(1).values
    after = torch.where(batch.observed, at, T).flip(1).cummin(1).values.flip(1)
    return before, torch.where(after < T, after, -1)


def frames_at(batch: Batch, number: Tensor) -> Tensor:
    """Return the values [B, T, D] of the frames with the given indices: [B, T], or [B, T, D] with one index per
    channel. The index -1 gives 0."""
    if number.ndim == 3:
        return torch.where(number >= 0, batch.values.gather(1, number.clamp_min(0)), 0.0)
    B, T, _ = batch.values.shape
    row = number.clamp_min(0) + first_rows(B, T, number.device)
    return torch.where(number[..., None] >= 0, rows_at(batch.values, row), 0.0)


def first_rows(B: int, T: int, device: torch.device) -> Tensor:
    """Return the row [B, 1] in which each of B sequences begins, if they lie one after another with T rows each."""
    return torch.arange(0, B * T, T, device=device)[:, None]


def rows_at(x: Tensor, row: Tensor) -> Tensor:
    """Return the rows of x [..., n] at indices into its flattened leading dimensions, in the shape [*row.shape, n].

    This takes half the time of indexing by several tensors, and a third of that of `gather`; the backward pass takes a
    third."""
    return x.flatten(0, -2).index_select(0, row.flatten()).unflatten(0, row.shape)


def _earlier(before: Tensor) -> Tensor:
    """Shift indices of the last frame up to each time to those of the last frame strictly before; -1 if there is
    none."""
    return torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1)


def _later(after: Tensor) -> Tensor:
    """Shift indices of the first frame from each time on to those of the first strictly after; -1 if there is none."""
    return torch.cat([after[:, 1:], torch.full_like(after[:, :1], -1)], 1)


def _times(batch: Batch) -> Tensor:
    """Return the times in the shape of the masks."""
    return batch.times[..., None].expand_as(batch.observed) if batch.entries else batch.times


def by_channel(x: Tensor) -> Tensor:
    """Return `x` [B, T] as [B, T, 1], and `x` [B, T, D] unchanged."""
    return x if x.ndim == 3 else x[..., None]
